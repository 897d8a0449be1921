// What the neighbours for Node are told, and the no-op they run: as order.py.
import { openSync, writeSync } from "node:fs";

const { COUNT, WARM_UP, DUE, WARM_UP_DUE, MARKS } = process.env;

export const { BROKER_URL } = process.env;
export const DATABASE_URL = process.env.DATABASE_URL.replace("+psycopg", "");

const marks = openSync(MARKS, "a");

// The no-op: leave word that `number` ran.
export function mark(number) {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32LE(number);
  writeSync(marks, bytes);
}

// The number and the instant of each: first those of the warm-up, then all that are due at once.
export function orders() {
  const [count, warmUp] = [Number(COUNT), Number(WARM_UP)];
  const [due, early] = [DUE, WARM_UP_DUE].map((seconds) => new Date(Number(seconds) * 1000));
  return Array.from({ length: warmUp + count }, (_, at) =>
    at < warmUp ? { number: count + at, due: early } : { number: at - warmUp, due },
  );
}

// Some of them at a time.
export function* batches(all, size) {
  for (let at = 0; at < all.length; at += size) yield all.slice(at, at + size);
}

// `store`: store all that is due and end. `run`: start what runs it, and stay.
export async function commandLine({ store, run }) {
  await { store, run }[process.argv[2]]();
}

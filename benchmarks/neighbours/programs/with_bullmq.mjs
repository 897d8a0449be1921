// BullMQ job schedulers: one for each number, every day from the instant it is due; one worker process.
//
// As its documentation advises: `concurrency` well above one for jobs that mostly wait for Redis, finished jobs
// removed (`removeOnComplete`). Redis is as the other brokers here: it writes nothing to disk, which is more than
// BullMQ's guide "going to production" allows, and faster.
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { BROKER_URL, batches, commandLine, mark, orders } from "./order.mjs";

const DAY = 86_400_000;
const CONCURRENCY = 100;
const connection = new Redis(BROKER_URL, { maxRetriesPerRequest: null });

async function store() {
  const queue = new Queue("noops", { connection });
  for (const some of batches(orders(), 500)) {
    await Promise.all(
      some.map(({ number, due }) =>
        queue.upsertJobScheduler(
          `entry-${number}`,
          { every: DAY, startDate: due },
          { name: "noop", data: { number }, opts: { removeOnComplete: true } },
        ),
      ),
    );
  }
  await queue.close();
  connection.disconnect();
}

async function run() {
  new Worker("noops", async (job) => mark(job.data.number), { connection, concurrency: CONCURRENCY });
}

await commandLine({ store, run });

// graphile-worker on PostgreSQL: jobs with a `runAt`, added in batches; one worker process.
//
// It has no standing schedules but a crontab file, so what is measured is a delayed job, without the work of
// planning the next one. With TUNED set as its page "Performance" sets it: 24 jobs at once, 25 connections,
// a local queue of 500, completions in batches; and it looks for jobs that became due every 0.1 s instead of
// every 2. Without: its defaults. In neither does it log each job, as its default logger does.
import { Logger, makeWorkerUtils, run as runWorker } from "graphile-worker";
import { DATABASE_URL, batches, commandLine, mark, orders } from "./order.mjs";

const TUNED = {
  concurrentJobs: 24,
  maxPoolSize: 25,
  pollInterval: 100,
  localQueue: { size: 500 },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
};
const logger = new Logger(() => (level, message) => {
  if (level === "error" || level === "warning") console.error(message);
});

async function store() {
  const utils = await makeWorkerUtils({ connectionString: DATABASE_URL, logger });
  await utils.migrate();
  for (const some of batches(orders(), 5_000)) {
    await utils.addJobs(some.map(({ number, due }) => ({ identifier: "noop", payload: { number }, runAt: due })));
  }
  await utils.release();
}

async function run() {
  const runner = await runWorker({
    preset: { worker: { connectionString: DATABASE_URL, logger, ...(process.env.TUNED ? TUNED : {}) } },
    taskList: { noop: async ({ number }) => mark(number) },
  });
  await runner.promise;
}

await commandLine({ store, run });

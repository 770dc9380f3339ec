import assert from "node:assert/strict";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { cacheInMemory, keptInMemory, newClient, newDevice, smallTask } from "./small_task.mjs";
import { page } from "./vectors.mjs";

const { ServerUnreachableError } = await import(new URL("errors.js", page));
const { TryAgainError, patiently } = await import(new URL("retry.js", page));
const LONGER_THAN_PATIENCE_S = 1000;

test("an update that an outage kept from the server is sent after it, and no failure is reported", async () => {
  const task = await smallTask();
  const kept = keptInMemory();
  try {
    const client = await newClient();
    client.reportUpdate = () =>
      patiently(() => Promise.reject(new TryAgainError("no answer", LONGER_THAN_PATIENCE_S)), {});
    await assert.rejects((await newDevice({ kept, client })).run(), ServerUnreachableError);
    assert.deepEqual(task.reports, []);
    const update = kept.values.get("update").value;

    await (await newDevice({ kept, client: await newClient() })).run();
    assert.deepEqual(
      task.reports.map((each) => Buffer.compare(each.update, update)),
      [0],
    );
    assert.equal(kept.values.has("update"), false);
  } finally {
    task.close();
  }
});

test("the seconds of a download are those of transfers, without the browser's own stores", async () => {
  const task = await smallTask({ blobDelayMs: 20 });
  let storeS = 0;
  const slowly = async () => {
    const started = performance.now();
    await sleep(150);
    storeS += (performance.now() - started) / 1000;
  };
  try {
    const client = await newClient();
    const started = performance.now();
    await (await newDevice({ client, cache: cacheInMemory(slowly) })).run();
    const otherS = (performance.now() - started) / 1000 - storeS;
    const report = reportOf(task.reports[0].update);
    assert.ok(storeS > 1);
    assert.ok(report.download_s >= 4 * 0.02 && report.download_s <= otherS, `${report.download_s} of ${otherS} s`);
    assert.equal(report.downloaded_bytes, "weights".length + "graph".length + "{}".length + "adapter".length);
  } finally {
    task.close();
  }
});

/** The figures in the header of an update. */
function reportOf(update) {
  const header = update.subarray(8, 8 + Number(update.readBigUInt64LE(0)));
  return JSON.parse(JSON.parse(header).__metadata__.report);
}

import assert from "node:assert/strict";
import test from "node:test";
import { keptInMemory, newClient, newDevice, smallTask } from "./small_task.mjs";
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

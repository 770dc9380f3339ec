import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import test from "node:test";
import { page } from "./vectors.mjs";

const { pause } = await import(new URL("retry.js", page));
const { trainInWorker } = await import(new URL("training_process.js", page));

/** A worker that answers a job with these messages; `living` counts those that run. */
function workers(...messages) {
  const counted = { made: 0, living: 0 };
  globalThis.Worker = class {
    constructor() {
      counted.made += 1;
      counted.living += 1;
    }

    postMessage() {
      queueMicrotask(() => messages.forEach((data) => this.onmessage({ data })));
    }

    terminate() {
      counted.living -= 1;
    }
  };
  return counted;
}

test("a device that trains round after round leaves nothing behind at the signal that stops it", async () => {
  const { signal } = new AbortController();
  const counted = workers({ kind: "stepped", step: 1 }, { kind: "trained" });
  const steps = [];
  for (let round = 0; round < 3; round++) {
    const found = await trainInWorker({}, { stopped: signal, onStep: ({ step }) => steps.push(step) });
    assert.equal(found.kind, "trained");
    await pause(0, signal);
  }
  assert.deepEqual(steps, [1, 1, 1]);
  assert.deepEqual(counted, { made: 3, living: 0 });
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

test("stopping ends the training and the pause that are under way", async () => {
  const stopping = new AbortController();
  const counted = workers();
  const waiting = [trainInWorker({}, { stopped: stopping.signal }), pause(60, stopping.signal)];
  stopping.abort(new Error("stopped"));
  for (const each of waiting) await assert.rejects(each, /stopped/);
  assert.deepEqual(counted, { made: 1, living: 0 });
});

test("a device that was stopped already begins no training", async () => {
  const counted = workers({ kind: "trained" });
  await assert.rejects(trainInWorker({}, { stopped: AbortSignal.abort(new Error("stopped")) }), /stopped/);
  assert.deepEqual(counted, { made: 0, living: 0 });
});

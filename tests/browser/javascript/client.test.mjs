import assert from "node:assert/strict";
import test from "node:test";
import { newClient, serveToPage } from "./small_task.mjs";
import { page } from "./vectors.mjs";

const { RefusedError } = await import(new URL("client.js", page));

/** Answer check-ins with these statuses and messages, one after the other; gives their signatures, and what ends it. */
async function answering(...answers) {
  const signatures = [];
  const close = await serveToPage((request, _content, response) => {
    signatures.push(request.headers.signature);
    const [status, message] = answers[signatures.length - 1];
    response.writeHead(status).end(JSON.stringify(message));
  });
  return { signatures, close };
}

test("a request that the browser repeated by itself is signed and sent once more", async () => {
  const replayed = { code: "replayed-request", cause: "it was already received", remedy: "sign afresh" };
  const { signatures, close } = await answering([401, replayed], [200, { task_state: "running" }]);
  try {
    assert.deepEqual(await (await newClient()).checkIn(), { task_state: "running" });
    assert.equal(new Set(signatures).size, 2);
  } finally {
    close();
  }
});

test("another refusal is not tried again", async () => {
  const { signatures, close } = await answering([401, { code: "wrong-signature", cause: "c", remedy: "r" }]);
  try {
    await assert.rejects((await newClient()).checkIn(), RefusedError);
    assert.equal(signatures.length, 1);
  } finally {
    close();
  }
});

import assert from "node:assert/strict";
import test from "node:test";
import { page, vectors } from "./vectors.mjs";

const { balancedOrder, epochOrder, epochRows } = await import(new URL("epoch_order.js", page));

test("the order of an epoch is numpy's, whatever the seed", () => {
  for (const { examples, seed, epoch, order } of vectors.orders) {
    assert.deepEqual(epochOrder(examples, seed, epoch), order, `${examples} examples, seed ${seed}, epoch ${epoch}`);
  }
});

test("balanced classes come in Python's order", () => {
  for (const { labels, seed, epoch, order } of vectors.balanced)
    assert.deepEqual(balancedOrder(labels, seed, epoch), order);
});

test("a seed that a browser cannot count is refused", () => {
  const settings = { seed: 2 ** 60, class_balance: false };
  assert.throws(() => epochRows([0, 1], settings, 0), /seed .* is larger/);
});

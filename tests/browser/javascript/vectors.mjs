// What Python's libraries made of the same numbers and texts; the folder is named by the test that starts these.
import { readFileSync } from "node:fs";

const folder = process.env.QUADLOOM_VECTORS;
export const vectors = JSON.parse(readFileSync(`${folder}/vectors.json`, "utf-8"));
export const tensorsFile = new Uint8Array(readFileSync(`${folder}/tensors.safetensors`));
export const page = new URL("../../../server/quadloom_server/browser_device/", import.meta.url);

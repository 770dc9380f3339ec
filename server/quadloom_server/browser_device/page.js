/** The page: what the person gives, one device at a time, and what it says of itself. */
import { DeviceAgent } from "./agent.js";
import { ServerClient } from "./client.js";
import { QuadloomError } from "./errors.js";
import { FamilyCopy } from "./family_copy.js";
import { deviceKey } from "./identity.js";
import { Kept } from "./kept.js";
import { readExamples } from "./local_data.js";
import { showing } from "./progress.js";

const form = document.querySelector("form");
const start = document.querySelector("#start");
const stop = document.querySelector("#stop");
const show = showing(document);

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const stopping = new AbortController();
  stop.onclick = () => stopping.abort();
  start.disabled = true;
  stop.disabled = false;
  try {
    await navigator.locks.request("quadloom-device", { ifAvailable: true }, async (lock) => {
      if (lock === null)
        throw new QuadloomError("this browser is a device in another tab already", "use that tab, or close it");
      await runDevice(new FormData(form), stopping.signal);
    });
  } catch (error) {
    show(stopping.signal.aborted ? { kind: "stopped" } : { kind: "problem", message: error.message });
  } finally {
    start.disabled = false;
    stop.disabled = true;
  }
});

async function runDevice(given, stopped) {
  if (!window.isSecureContext) {
    throw new QuadloomError(
      "browsers keep keys only for https:// and for this machine",
      "serve with --tls-cert and --tls-key",
    );
  }
  const file = given.get("file");
  const content = file.size > 0 ? await file.text() : given.get("pasted");
  const examples = readExamples(content, { textField: given.get("text-field"), labelField: given.get("label-field") });
  const kept = await Kept.open();
  const onWait = (cause, waitS) => show({ kind: "waiting", reason: `${cause}; trying again in ${waitS.toFixed(1)} s` });
  const client = new ServerClient(await deviceKey(kept), { stopped, onWait });
  const family = await FamilyCopy.open(client, (path) => show({ kind: "fetching", path }));
  const options = {
    name: given.get("name"),
    memoryLimitBytes: Math.round(given.get("memory-limit") * 1e6),
    rank: given.get("rank") === "" ? null : Number(given.get("rank")),
    token: given.get("token").trim(),
  };
  await new DeviceAgent({ kept, client, family, options, examples, say: show, stopped }).run();
}

// Makes one tab of a real Chromium a device, as a person would, and says as JSON what happened.
// node drive.mjs OPTIONS, where OPTIONS is JSON: packages, chromium, server, name, token; data (a file) or pasted (its
// text); and if wanted reloadAfterRound, picture.
import { createRequire } from "node:module";

const options = JSON.parse(process.argv[2]);
const { chromium } = createRequire(`${options.packages}/`)("playwright-core");
const browser = await chromium.launch({ executablePath: options.chromium, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 820, height: 900 } });
const requests = [];
const problems = [];
const states = [];
page.on("request", (request) =>
  requests.push({
    method: request.method(),
    url: request.url(),
    body: request.postDataBuffer()?.toString("base64") ?? "",
  }),
);
page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
page.on("pageerror", (error) => problems.push(String(error)));
await page.exposeFunction("heard", (kind, text) => states.push({ kind, text }));

async function start(token) {
  await page.goto(`${options.server}/device`);
  await page.evaluate(() => {
    const state = document.querySelector("#state");
    new MutationObserver(() => window.heard(state.dataset.kind, state.textContent)).observe(state, { childList: true });
  });
  await page.fill("[name=name]", options.name);
  await page.fill("[name=token]", token);
  if (options.pasted) await page.fill("[name=pasted]", options.pasted);
  else await page.setInputFiles("[name=file]", options.data);
  await page.click("#start");
}

/** Wait for a state of the page; a failure ends the wait, too. */
async function until(isReached) {
  const deadline = Date.now() + 60_000;
  while (!states.some((each) => ["failed", "problem"].includes(each.kind) || isReached(each))) {
    if (Date.now() > deadline) throw new Error("the page did not come so far within a minute");
    await page.waitForTimeout(50);
  }
}

try {
  await start(options.token);
  if (options.reloadAfterRound) {
    await until(({ kind, text }) => kind === "reported" && text.startsWith(`round ${options.reloadAfterRound}:`));
    await start("");
  }
  await until(({ kind }) => kind === "finished");
  if (options.picture) await page.screenshot({ path: options.picture, fullPage: true });
  const rounds = await page.$$eval("#rounds tbody tr", (rows) =>
    rows.map((row) => [...row.cells].map((cell) => cell.textContent)),
  );
  process.stdout.write(JSON.stringify({ states, rounds, requests, problems }));
} catch (error) {
  process.stderr.write(`${error}\n${JSON.stringify({ states, problems })}\n`);
  process.exitCode = 1;
} finally {
  await browser.close();
}

/** Shows the events of a device to people: one line of state, a table of rounds, a log. */

const LOG_LINES = 200;

const STATES = {
  enrolled: ({ name, model }) => `enrolled as ${name}; the model is ${model}`,
  assigned: ({ round, member, reason }) => `round ${round}: member ${member} (${reason})`,
  fetching: ({ path }) => `fetching ${path}`,
  stepped: ({ round, step, steps, loss }) => `round ${round}: step ${step} of ${steps}, loss ${loss.toFixed(4)}`,
  reported: ({ round, status, reason, bytes }) => `round ${round}: update of ${bytes} bytes ${status} (${reason})`,
  failed: ({ round, message }) => `round ${round}: ${message}`,
  waiting: ({ reason }) => `waiting: ${reason}`,
  finished: ({ reason }) => `finished: ${reason}`,
  stopped: () => "stopped",
  problem: ({ message }) => message,
};

/** What shows an event on the page. */
export function showing(page) {
  const state = page.querySelector("#state");
  const bar = page.querySelector("progress");
  const rounds = page.querySelector("#rounds tbody");
  const log = page.querySelector("#log");
  let row = null;
  const inRow = (column, text) => row && (row.cells[column].textContent = text);
  return (event) => {
    const text = STATES[event.kind](event);
    if (state.textContent !== text && event.kind !== "stepped") {
      log.append(Object.assign(page.createElement("li"), { textContent: text }));
      while (log.children.length > LOG_LINES) log.firstChild.remove();
    }
    state.textContent = text;
    state.dataset.kind = event.kind;
    if (event.kind === "assigned") {
      row = rounds.insertRow();
      for (const cell of [event.round, event.member, "", "", "", "training"]) row.insertCell().textContent = cell;
    } else if (event.kind === "stepped") {
      if (row.cells[3].textContent === "") inRow(3, event.loss.toFixed(4));
      inRow(2, `${event.step} of ${event.steps}`);
      inRow(4, event.loss.toFixed(4));
      Object.assign(bar, { value: event.step, max: event.steps });
    } else if (event.kind === "reported" || event.kind === "failed") {
      inRow(5, event.kind === "failed" ? "failed" : event.status);
    }
  };
}

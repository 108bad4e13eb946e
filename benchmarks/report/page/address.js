"use strict";
// The view in the address, so that it can be shared: every control that has an id and is not at its start, and every
// panel that was opened or closed. What the address asks for and the page does not have is said, and nothing else.

const ASKED = new URLSearchParams(location.search); // less what a control has taken
const PANELS = new Map(); // that are not as they begin, by key: whether they are open
const RANGES = new Map(); // what the places of a slider stand for, by its id
const CONTROLS = "#filters select, main select, main input"; // whose views are shared, but those of data-view="no"

/** Names of what a select offers that stay the same when the page is written again with more runs. */
const keyOf = (option) => option.dataset.key ?? option.value;

/** What a control adds to the address; null where it is as it begins. */
function viewOf(control) {
  if (control.options) return control.selectedIndex > 0 ? keyOf(control.options[control.selectedIndex]) : null;
  if (control.type === "checkbox") return control.checked === control.defaultChecked ? null : String(Number(control.checked));
  if (control.value === control.defaultValue) return null;
  return String(RANGES.get(control.id)?.[control.value] ?? control.value);
}

/** Has a slider stand for values, and begin at one of them. */
function makeRange(id, values, start) {
  RANGES.set(id, values.map(String));
  Object.assign(byId(id), { min: 0, max: values.length - 1, step: 1, defaultValue: String(values.indexOf(start)) });
  byId(id).value = values.indexOf(start);
}

/** Sets a control as the address asks, once; of a select once it is filled. */
function takeAsked(control) {
  const asked = ASKED.get(control.id);
  if (asked === null || control.dataset.view === "no") return;
  ASKED.delete(control.id);
  const place = control.options ? [...control.options].findIndex((option) => keyOf(option) === asked)
    : RANGES.has(control.id) ? RANGES.get(control.id).indexOf(asked)
      : control.type === "checkbox" ? ["0", "1"].indexOf(asked) : 0;
  if (place < 0) leaveOut(control.id, asked);
  else if (control.options) control.selectedIndex = place;
  else if (control.type === "checkbox") control.checked = place === 1;
  else control.value = RANGES.has(control.id) ? place : asked;
}

/** Takes what the address asks of sliders, boxes and selects that need no filling; and of panels. */
function readAddress() {
  for (const control of document.querySelectorAll(CONTROLS)) {
    if (control.id && (!control.options || control.options.length)) takeAsked(control);
  }
  for (const [name, open] of [["open", true], ["closed", false]]) {
    for (const key of ASKED.getAll(name)) PANELS.set(key, open);
    ASKED.delete(name);
  }
  const ids = new Set([...document.querySelectorAll(CONTROLS)].filter(({ dataset }) => dataset.view !== "no").map(({ id }) => id));
  for (const [name, value] of [...ASKED]) {
    if (ids.has(name)) continue; // not filled yet
    ASKED.delete(name);
    leaveOut(name, value);
  }
}

function leaveOut(name, value) {
  byId("address-note").append(make("p", { className: "warning" }, `The address asks for ${name} “${value}”, which this page does not have: left out.`));
}

/** A folded panel that keeps how it was left when it is drawn again. */
function panel(key, open, ...children) {
  const details = make("details", { open: PANELS.get(key) ?? open }, ...children);
  details.addEventListener("toggle", () => {
    if (details.open === open) PANELS.delete(key);
    else PANELS.set(key, details.open);
    writeAddress();
  });
  return details;
}

/** Leaves out the panels that the address asks for and the page cannot have. */
function checkPanels(keys) {
  for (const key of [...PANELS.keys()].filter((asked) => !keys.has(asked))) {
    PANELS.delete(key);
    leaveOut("a panel", key);
  }
}

/** Has the address hold what differs from the page as it opens. */
function writeAddress() {
  const view = new URLSearchParams();
  for (const control of document.querySelectorAll(CONTROLS)) {
    const value = control.id && control.dataset.view !== "no" ? ASKED.get(control.id) ?? viewOf(control) : null;
    if (value !== null) view.set(control.id, value);
  }
  for (const [key, open] of [...PANELS].sort()) view.append(open ? "open" : "closed", key);
  history.replaceState(null, "", `${location.pathname}${view.size ? `?${view}` : ""}${location.hash}`);
}

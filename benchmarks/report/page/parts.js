"use strict";
// What the page unpacks once its first screen is drawn: plotly, and the records and results of classes of one place at a
// time when they are asked for.

const LOADED = new Map();
const latestDraw = {};

/** The text that an element holds as gzip in base64. */
async function unpacked(id) {
  const packed = Uint8Array.from(atob(byId(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

/** A promise of the time at which what needs neither plotly nor a part is on the screen. */
const FIRST_SCREEN = new Promise((resolve) => {
  document.addEventListener("DOMContentLoaded", () => requestAnimationFrame(() => setTimeout(() => resolve(performance.now()))));
});

/** A promise that a figure has come into sight, or that the browser has nothing else to do. */
function figureInSightOrIdle() {
  return new Promise((resolve) => {
    const seen = new IntersectionObserver((entries) => { if (entries.some(({ isIntersecting }) => isIntersecting)) resolve(); });
    document.querySelectorAll(".plot").forEach((plot) => seen.observe(plot));
    (window.requestIdleCallback ?? setTimeout)(resolve);
  });
}

/** Plotly, as a promise that it is there: it takes as long as all else of the page. */
const PLOTLY = FIRST_SCREEN.then(figureInSightOrIdle).then(() => unpacked("plotly"))
  .then((code) => { document.head.append(make("script", { textContent: code })); });
LOADED.set("plotly", PLOTLY);

/** A part, as a promise of the contents of its records and of what is known of their classes, both by name, and of curves by row. */
function loadPart(name) {
  if (!LOADED.has(name)) LOADED.set(name, unpack(`part-${name}`));
  return LOADED.get(name);
}

async function unpack(id) {
  const { records, classes, curves } = JSON.parse(await unpacked(id));
  const contents = records.flatMap(({ names, between, columns }) => names.map((name, i) => [name, content(between, columns, i)]));
  return { contents: Object.fromEntries(contents), classes, curves };
}

/** The record of a row: its values, a column each, with the texts between them. */
function content(between, columns, row) {
  const values = columns.map((column) => JSON.stringify(Array.isArray(column) ? column[row] : column));
  return JSON.parse(between.map((text, i) => text + (values[i] ?? "")).join(""));
}

/** Draws a section once its part is there, unless it was drawn again meanwhile; without a part, at once. */
async function drawWith(section, name, drawSection) {
  const turn = (latestDraw[section] ?? 0) + 1;
  latestDraw[section] = turn;
  await FIRST_SCREEN;
  const part = name === null ? { contents: {}, classes: {}, curves: {} } : await loadPart(name);
  if (latestDraw[section] === turn) drawSection(part);
}

/** The part of the place that is chosen in a select of `choices` with resolutions; null where there is none. */
const partOf = (select) => (select.value === "" ? null : select.value.replace("/", "-"));

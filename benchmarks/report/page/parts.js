"use strict";
// What the page unpacks: plotly at once, and when they are asked for the records and results of classes of one place at a
// time.

const LOADED = new Map();
const latestDraw = {};

/** The text that an element holds as gzip in base64. */
async function unpacked(id) {
  const packed = Uint8Array.from(atob(byId(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

/** Plotly, as a promise that it is there; what needs no figure is drawn meanwhile. */
const PLOTLY = unpacked("plotly").then((code) => { document.head.append(make("script", { textContent: code })); });
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
  const part = name === null ? { contents: {}, classes: {}, curves: {} } : await loadPart(name);
  if (latestDraw[section] === turn) drawSection(part);
}

/** The part of the place that is chosen in a select of `choices` with resolutions; null where there is none. */
const partOf = (select) => (select.value === "" ? null : select.value.replace("/", "-"));

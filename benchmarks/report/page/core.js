"use strict";
// The data, the filters that hold for the whole page, and the few ways in which text reaches it: names that users gave
// are set as text, never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const MISSING = "–";
const FURTHER = []; // what draws sections that not every page has
const byId = (id) => document.getElementById(id);

/** An element with properties and children; strings become text. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Text for plotly, which takes a few tags for markup. */
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function bytes(value) {
  if (value === null) return MISSING;
  const [size, unit] = value >= 2 ** 30 ? [value / 2 ** 30, "GiB"] : [value / 2 ** 20, "MiB"];
  return `${size >= 100 ? Math.round(size).toLocaleString("en") : Number(size.toPrecision(3))} ${unit}`;
}

function percent(share, digits = 1) {
  return share === null || share === undefined ? MISSING : (100 * share).toFixed(digits);
}

function plural(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** Fills a select, and keeps what was chosen where it is still there; `key` is what the address calls an option. */
function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(({ value, text, key = value }) => {
    const option = make("option", { value: String(value), textContent: text });
    option.dataset.key = key;
    return option;
  }));
  if (options.some((option) => String(option.value) === before)) select.value = before;
  select.disabled = options.length === 0;
  takeAsked(select);
}

/** Shows why there is nothing to show; an empty reason shows the content again. */
function showEmpty(name, reason, ...contents) {
  byId(`${name}-empty`).textContent = reason;
  for (const content of contents) content.hidden = reason !== "";
}

const FEW = 12; // rows of a resolution that need no headings, and labels that a figure names all
const GREY = "#b8b8b8"; // what a figure of many does not name

/** Of many labels full fine-tuning and that of each idea whose value is least, by rows before; all of few. */
function fewOf(values) {
  if (values.size <= FEW) return new Set(values.keys());
  const best = new Map();
  for (const [label, value] of values) {
    const { idea } = DATA.styles[label];
    if (!best.has(idea) || value < best.get(idea)[1]) best.set(idea, [label, value]);
  }
  return new Set([...best.values()].map(([label]) => label));
}

/** What a caption says of labels that are not named. */
const saidOfFew = (all, few, which) => (few < all ? `Coloured: ${which}; grey: the ${all - few} others; point at one to see its name, or choose it above.` : "");

const NO_RUNS = "There are no runs yet. Make some, then write this page again: "
  + "python bench.py --methods full lora fpt --res 224, then python bench.py report.";
const NO_MATCH = "Nothing matches the filters. Choose others above, or “Show all”.";

const group = (row) => DATA.groups[row.group];
const RUNS = new Map(DATA.runs.id.map((id, i) => [id, { id, ...Object.fromEntries(["row", "seed", "state", "part"].map((key) => [key, DATA.runs[key][i]])) }]));
const RUNS_OF_ROWS = Map.groupBy(RUNS.values(), ({ row }) => row);
const runsOf = (index) => RUNS_OF_ROWS.get(index) ?? [];
const FILTERS = {
  dataset: { of: (row) => group(row).dataset, all: "all datasets" },
  resolution: { of: (row) => String(row.resolution), all: "all resolutions", text: (value) => `${value} px` },
  label: { of: (row) => row.label, all: "all methods" },
  block: { of: (row) => group(row).block, all: "all protocols" },
};

/** The rows that pass all filters, each with its index. */
function shownRows() {
  return DATA.rows
    .map((row, index) => ({ ...row, index }))
    .filter((row) => Object.entries(FILTERS).every(([name, filter]) => {
      const chosen = byId(`filter-${name}`).value;
      return chosen === "" || filter.of(row) === chosen;
    }));
}

function shownLabel(label) {
  const chosen = byId("filter-label").value;
  return chosen === "" || chosen === label;
}

function makeFilters() {
  for (const [name, { of, all, text = String }] of Object.entries(FILTERS)) {
    const values = [...new Set(DATA.rows.map(of))];
    if (name === "resolution") values.sort((a, b) => a - b);
    const labels = name === "label" ? Object.keys(DATA.styles) : values;
    const options = labels.map((value) => ({ value, text: text(value) }));
    fill(byId(`filter-${name}`), [{ value: "", text: all }, ...options]);
  }
}

/** Choices of what a figure shows: dataset and protocol, with the resolution if asked; synthetic images come last. */
function choices(rows, withResolution) {
  const seen = new Map();
  for (const row of rows) {
    const { dataset, block, protocol } = group(row);
    const value = withResolution ? `${row.group}/${row.resolution}` : String(row.group);
    const side = withResolution ? `, ${row.resolution_text}` : "";
    seen.set(value, { value, text: `${dataset}${side} · ${block}: ${protocol}`, key: `${dataset}${side}, ${block}` });
  }
  const drawn = (value) => Number(DATA.groups[parseInt(value, 10)].synthetic);
  return [...seen.values()].sort((a, b) => drawn(a.value) - drawn(b.value));
}

const LAYOUT = {
  font: { family: "system-ui, 'DejaVu Sans', sans-serif", size: 13, color: "#1a1a1a" },
  paper_bgcolor: "#fff",
  plot_bgcolor: "#fff",
  hovermode: "closest",
  hoverlabel: { align: "left", bgcolor: "#fff", bordercolor: "#333", font: { color: "#1a1a1a" } },
  showlegend: true,
};
const AXIS = { gridcolor: "#e4e4e4", linecolor: "#555", showline: true, ticks: "outside", zeroline: false, automargin: true };

/** Draws a figure of some height with its legend below it; a point that carries a record's name leads to that record. */
async function draw(id, traces, layout, height) {
  await PLOTLY; // and what is measured below has the whole page laid out
  const plot = byId(id);
  const narrow = plot.clientWidth < 600;
  const entries = traces.filter((trace) => trace.showlegend !== false).map(({ name }) => name);
  const entrywidth = 20 + 7 * Math.max(...entries.map((name) => name.length));
  const columns = Math.max(1, Math.floor(plot.clientWidth / (entrywidth + 55)));
  const legendHeight = 24 * Math.ceil(entries.length / columns);
  plot.style.height = `${(height ?? (narrow ? 390 : 480)) + legendHeight + (height ? 110 : 0)}px`;
  const shared = {
    ...LAYOUT,
    margin: { l: 10, r: narrow ? 10 : 24, t: 30, b: legendHeight + 80 },
    legend: { orientation: "h", x: 0, xref: "container", xanchor: "left", y: 0, yref: "container", yanchor: "bottom", entrywidth, tracegroupgap: 0 },
    dragmode: narrow ? false : "zoom", // a finger on a figure is to scroll the page
  };
  const modeBarButtons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  Plotly.react(plot, traces, { ...shared, ...layout }, { displaylogo: false, displayModeBar: !narrow, modeBarButtons });
  if (!plot.dataset.linked) {
    plot.dataset.linked = "yes";
    plot.on("plotly_click", ({ points }) => {
      const name = points[0].customdata;
      if (name) location.hash = recordHash(name);
    });
  }
}

const recordHash = (name) => `#record=${encodeURIComponent(name)}`;

"use strict";
// Memory over resolution, and what of it fits a card.

const cardSize = () => CARDS_GB[byId("card").value];

/** The points of the setting that is chosen, a measurement in place of the prediction of the same point. */
function memoryPoints() {
  const points = DATA.memory.filter(({ setting, label }) => setting === byId("memory-setting").value && shownLabel(label));
  const same = (a, b) => a.label === b.label && a.resolution === b.resolution;
  return points.filter((point) => point.source === "measured"
    ? !point.oom || !points.some((other) => same(point, other) && other.source === "predicted")
    : !points.some((other) => same(point, other) && other.source === "measured" && !other.oom));
}

function makeMemoryControls() {
  fill(byId("memory-setting"), DATA.settings.map(({ setting }) => ({ value: setting, text: setting }))); // those of runs first
  makeRange("card", CARDS_GB, 24);
}

function drawMemory() {
  const card = cardSize();
  byId("card-size").textContent = cardText(card);
  byId("card").setAttribute("aria-valuetext", cardText(card));
  const points = memoryPoints();
  const quantity = byId("memory-quantity").value;
  const reason = !DATA.memory.length
    ? "No memory is stored yet, neither measured nor predicted. Run bench.py --methods ..., or on a GPU bench.py memory --measure, then python bench.py report."
    : points.length ? "" : "This setting has no point of the method that is chosen above. Choose another setting, or “Show all”.";
  showEmpty("memory", reason, byId("memory-plot"), byId("fits"), byId("memory-caption"), byId("card-summary"));
  if (reason) return;
  const few = drawMemoryCurves(points, quantity, card);
  drawFits(points, card);
  const oom = DATA.memory.filter((point) => point.oom && point.setting === byId("memory-setting").value && shownLabel(point.label));
  byId("memory-caption").textContent = [
    `What a card must have: ${DATA.needs}; a card sold as ${card} GB is taken to hold ${card} GiB.`,
    points.some(({ source }) => source === "predicted") ? "† Hollow markers: predicted, not measured." : "",
    `Measured on ${[...new Set(points.filter(({ source }) => source === "measured").map(({ device }) => device))].join(", ") || "no GPU yet"}.`,
    oom.length ? `Out of memory: ${oom.map(({ label, resolution, device }) => `${label} at ${resolution} px on ${device}`).join(", ")}.` : "",
    few,
    missingOf(points),
    "Choose a point to see its record.",
  ].filter(Boolean).join(" ");
}

/** What is neither measured nor predicted of the setting of runs, and the command that predicts it. */
function missingOf(points) {
  const { command } = DATA.settings.find(({ setting }) => setting === byId("memory-setting").value);
  if (!command) return "";
  const sides = [...new Set(points.map(({ resolution }) => resolution))];
  const labels = Object.keys(DATA.styles).filter((label) => points.some((point) => point.label === label));
  const missing = labels.flatMap((label) => sides.filter((side) => !points.some((point) => point.label === label && point.resolution === side)).map((side) => `${label} at ${side} px`));
  return `${missing.length ? `Neither measured nor predicted: ${listed(missing)}. ` : ""}More sides, predicted: ${command}, then bench.py report again.`;
}

/** Draws the lines; returns what the caption says of those that are not named. */
function drawMemoryCurves(points, quantity, card) {
  const known = points.filter((point) => point[quantity] !== null);
  const empty = known.length === 0;
  byId("memory-plot").hidden = empty;
  if (empty) {
    byId("memory-empty").textContent = "No method here preloads features. Draw another quantity.";
    return "";
  }
  const lines = Object.keys(DATA.styles).map((label) => [label, known.filter((point) => point.label === label)]).filter(([, own]) => own.length);
  const least = lines.map(([label, own]) => [label, own.reduce((sum, point) => sum + Math.log(point[quantity]), 0) / own.length]);
  const few = fewOf(new Map(least));
  const traces = lines
    .sort(([a], [b]) => few.has(a) - few.has(b)) // the grey ones below
    .map(([label, own]) => {
      if (!few.has(label)) return greyLine(label, own, quantity);
      const { colour, symbol, dash } = DATA.styles[label];
      return {
        name: plain(label), mode: "lines+markers", line: { color: colour, dash, width: 1.8 }, cliponaxis: false,
        x: own.map(({ resolution }) => resolution), y: own.map((point) => point[quantity]),
        marker: { color: colour, size: 9, symbol: own.map(({ source }) => symbol + (source === "predicted" ? HOLLOW : "")), line: { color: colour, width: 1.5 } },
        customdata: own.map(({ record }) => record), hoverinfo: "text",
        hovertext: own.map((point) => memoryHover(label, point, quantity)),
      };
    });
  const sides = [...new Set(known.map(({ resolution }) => resolution))].sort((a, b) => a - b);
  const limit = card * 2 ** 30;
  const withCard = quantity === "needs";
  const values = known.map((point) => point[quantity]).concat(withCard ? [limit] : []);
  const range = [Math.log10(Math.min(...values) / 1.3), Math.log10(Math.max(...values) * 1.4)];
  const line = { type: "line", xref: "paper", x0: 0, x1: 1, y0: limit, y1: limit, line: { color: "#000", width: 2, dash: "dash" } };
  const label = { xref: "paper", x: 0, y: Math.log10(limit), xanchor: "left", yanchor: "bottom", showarrow: false, text: `<b>${card} GB card</b>`, bgcolor: "#fff" };
  const apart = byId("memory-plot").clientWidth < 600 ? 1.3 : 1.1;
  const readable = sides.reduce((kept, side) => (kept.length && side / kept.at(-1) < apart ? kept : [...kept, side]), []);
  const title = { needs: "A card must have (log)", run: "Peak allocated, whole run (log)", train: "Peak allocated, training (log)", preload: "Peak allocated, preloading (log)" };
  draw("memory-plot", traces, {
    xaxis: { ...AXIS, type: "log", tickvals: readable, ticktext: readable.map(String), tickangle: 0, title: { text: "Image side (px, log)" } },
    yaxis: { ...AXIS, ...byteTicks(values), range, title: { text: title[quantity] } },
    shapes: withCard ? [line] : [], annotations: withCard ? [label] : [],
  });
  return saidOfFew(lines.length, few.size, "full fine-tuning and the least of each idea");
}

const memoryHover = (label, point, quantity) => `${plain(label)}, ${point.resolution} px<br>${bytes(point[quantity])}${point.source === "predicted" ? "†, predicted" : `, measured on ${plain(point.device)}`}`;

/** A method that a figure of many does not name. */
function greyLine(label, own, quantity) {
  return {
    name: plain(label), mode: "lines", line: { color: GREY, width: 1 }, showlegend: false, cliponaxis: false,
    x: own.map(({ resolution }) => resolution), y: own.map((point) => point[quantity]),
    customdata: own.map(({ record }) => record), hoverinfo: "text", hovertext: own.map((point) => memoryHover(label, point, quantity)),
  };
}

/** A row a method, a column a resolution: what a card must have, and whether this one has it. */
function drawFits(points, card) {
  const limit = card * 2 ** 30;
  const sides = [...new Set(points.map(({ resolution }) => resolution))].sort((a, b) => a - b);
  const labels = Object.keys(DATA.styles).filter((label) => points.some((point) => point.label === label));
  const at = (label, side) => points.find((point) => point.label === label && point.resolution === side);
  const fits = (point) => point !== undefined && point.needs !== null && point.needs <= limit;
  const rows = labels.map((label) => {
    const largest = sides.filter((side) => fits(at(label, side))).at(-1);
    const cells = sides.map((side) => fitCell(at(label, side), fits));
    return make("tr", {}, make("th", { scope: "row" }, label), make("td", {}, largest ? `${largest} px` : "none"), ...cells);
  });
  const head = ["Method", "Largest that fits", ...sides.map((side) => `${side} px`)].map((text) => make("th", { scope: "col" }, text));
  byId("fits").replaceChildren(
    make("caption", {}, `GiB a card must have, and whether ${card} GB are enough`),
    make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
  const counts = sides.map((side) => {
    const tried = labels.filter((label) => at(label, side));
    return `${tried.filter((label) => fits(at(label, side))).length} of ${tried.length} at ${side} px`;
  });
  byId("card-summary").textContent = `Methods that fit a ${card} GB card: ${counts.join(", ")}.`;
}

function fitCell(point, fits) {
  if (!point) return make("td", {}, MISSING);
  if (point.needs === null) return make("td", { className: "no" }, "✗ OOM");
  const size = (point.needs / 2 ** 30).toFixed(1) + (point.source === "predicted" ? "†" : "");
  return fits(point) ? make("td", { className: "yes" }, `✓ ${size}`) : make("td", { className: "no" }, `✗ ${size}`);
}

"use strict";
// AUC against cost, a panel a resolution with its front; and what figures of AUC share.

const HOLLOW = "-open";

const NEAR_CHANCE = 60; // percent: an axis that reaches below shows chance, 50

/** What the table flags in a row: marks of its method, AUC and seeds, and the seeds where some are lacking. */
function markOf(row) {
  const [method, auc, seeds] = ["Method", "AUC (%)", "Seeds"].map((title) => row.cells[DATA.columns.findIndex((column) => column.title === title)] ?? ["", ""]);
  const fewer = seeds[0].includes(" of ") ? ` ${seeds[0].replace(" of ", "/")}` : "";
  return method[1] + auc[1] + seeds[1] + fewer;
}

/** A number of results.csv, which rounds to four digits; null where it is not known. */
function storedOf(row, name) {
  const text = row.extra[DATA.extra.indexOf(name)] ?? MISSING;
  return text === MISSING ? null : Number(text);
}

/** The interval of a row's AUC in percent; null where none is known. */
function intervalOf(row) {
  const ends = ["auc low", "auc high"].map((name) => storedOf(row, name));
  return ends.includes(null) ? null : ends.map((end) => 100 * end);
}

/** Ticks of a log axis of bytes, at powers of two, at most so many. */
function byteTicks(values, most = 7) {
  const low = Math.floor(Math.log2(Math.min(...values)));
  const high = Math.ceil(Math.log2(Math.max(...values)));
  const step = Math.ceil((high - low) / most) || 1;
  const ticks = [];
  for (let power = low; power <= high; power += step) ticks.push(2 ** power);
  return { type: "log", tickvals: ticks, ticktext: ticks.map(bytes) };
}

/** Memory of training where the whole run needs more, else null. */
function trainingAlone({ costs }) {
  const alone = costs.alone[0];
  return alone !== null && alone < costs.run[0] ? alone : null;
}

function drawTradeOff(rows) {
  fill(byId("trade-off-group"), choices(rows, false));
  const chosen = rows.filter((row) => String(row.group) === byId("trade-off-group").value);
  const cost = byId("trade-off-cost").value;
  const points = chosen
    .filter((row) => row.auc_mean !== null && row.costs[cost][0] !== null)
    .map((row) => ({ ...placeOf(row, cost), alone: cost === "run" ? trainingAlone(row) : null }));
  const missing = chosen.filter((row) => runsOf(row.index).length && !points.some((point) => point.row.index === row.index));
  const reason = !DATA.rows.length ? NO_RUNS : !rows.length ? NO_MATCH : points.length ? ""
    : "No finished run here has both an AUC and this cost. Choose another dataset, protocol or cost, or run bench.py --retry-failed.";
  showEmpty("trade-off", reason, byId("trade-off-plot"), byId("trade-off-caption"));
  if (reason) return;
  const panels = [...Map.groupBy(points, ({ row }) => row.resolution)].sort(([a], [b]) => a - b)
    .map(([resolution, own]) => ({ resolution, own, front: frontOf(chosen[0].group, resolution, cost) }));
  const lines = Object.keys(DATA.styles).map((label) => [label, points.filter(({ row }) => row.label === label)]).filter(([, own]) => own.length);
  const named = namedHere(lines, panels.flatMap(({ front }) => [...front.steps, ...front.members.filter(({ x }) => x === front.start)]));
  const end = Math.max(...points.map(({ x }) => x), ...panels.flatMap(({ front }) => front.members.map(({ x }) => x))) * 1.15;
  const traces = panels.flatMap((panel, number) => panelTraces(panel, cost, lines, named, end)
    .map((trace) => ({ ...trace, xaxis: axisName("x", number), yaxis: axisName("y", number) })));
  const listed = new Set(); // what the legend has: each name once
  for (const trace of traces) {
    trace.legendgroup = trace.name;
    trace.showlegend = trace.showlegend !== false && !listed.has(trace.name);
    if (trace.showlegend) listed.add(trace.name);
  }
  const lowest = Math.min(...points.map(({ row, y }) => intervalOf(row)?.[0] ?? y));
  drawPanels(panels, traces, cost, points, lowest < NEAR_CHANCE);
  const memory = cost !== "trainable";
  const { spread, synthetic, footnotes } = group(chosen[0]);
  const banded = panels.some(({ front }) => front.members.length);
  byId("trade-off-caption").textContent = [
    `${spread.replace("mean ± sample standard deviation", "mean")}.`,
    points.some(({ row }) => intervalOf(row)) ? "Whiskers: the 95 % interval of the table." : "No intervals are known.",
    lowest < NEAR_CHANCE ? "Dotted line: chance (50)." : "Chance (50) lies below the axis.",
    memory ? "Memory: peak allocated on the GPU." : "",
    points.some(({ alone }) => alone !== null) ? "Lighter marks: training alone." : "",
    memory && points.some((point) => point.predicted) ? "† Hollow markers: memory predicted, not measured." : "",
    synthetic ? "Synthetic images: this ranks nothing." : "",
    missing.length ? `Not drawn, for want of an AUC or of this cost: ${missing.map((row) => `${row.label} at ${row.resolution} px`).join(", ")}.` : "",
    saidOfFew(lines.length, named.size, "the front and full fine-tuning"),
    banded ? "Band: from the highest mean to the lowest that is not told apart from it (at 0.05, all rivals at once), from the cheapest of these on." : "The front joins what nothing else beats in both.",
    byId("filter-label").value === "" ? "" : "Front and band are those of all methods.",
    "Choose a point to see its record.",
    ...footnotes.filter((note) => !note.startsWith("†")),
  ].filter(Boolean).join(" ");
}

const placeOf = (row, cost) => ({ row, x: row.costs[cost][0], y: 100 * row.auc_mean, predicted: row.costs[cost][1] });
const axisName = (axis, number) => `${axis}${number ? number + 1 : ""}`;

/** The front of a place, as the plots have it, whichever methods are shown. */
function frontOf(place, resolution, cost) {
  const { steps, members } = DATA.fronts[`${place}/${resolution}`][cost];
  const points = (numbers) => numbers.map((number) => placeOf({ ...DATA.rows[number], index: number }, cost));
  return { steps: points(steps), members: points(members), start: Math.min(...points(members).map(({ x }) => x)) };
}

/** What is drawn in a panel: its front and band, what is not named, training alone, and the points. */
function panelTraces({ own, front }, cost, lines, named, end) {
  const { steps, members, start } = front;
  const [low, high] = [Math.min, Math.max].map((pick) => pick(...members.map(({ y }) => y)));
  const traces = [];
  if (steps.length) traces.push({
    name: members.length ? "best for less" : "Pareto front", mode: "lines", line: { shape: "hv", color: "#888", width: 1.5 }, hoverinfo: "skip",
    x: [...steps.map(({ x }) => x), members.length ? start : end], y: [...steps.map(({ y }) => y), members.length ? low : steps.at(-1).y],
  });
  if (members.length) traces.push({
    name: "not told apart from the best", mode: "lines", fill: "toself", fillcolor: "rgba(0, 0, 0, 0.12)", line: { color: "#999", width: 1 }, hoverinfo: "skip",
    x: [start, end, end, start, start], y: [low, low, high, high, low],
  });
  const here = lines.map(([label]) => [label, own.filter(({ row }) => row.label === label)]).filter(([, some]) => some.length);
  const shown = here.filter(([label]) => named.has(label));
  traces.push(...here.filter(([label]) => !named.has(label)).map(([label, some]) => greyPoints(label, some, cost)));
  traces.push(...shown.flatMap(([, some]) => aloneTrace(some.filter(({ alone }) => alone !== null))));
  traces.push(...shown.map(([label, some]) => tradeOffTrace(label, some, cost)));
  return traces;
}

/** Draws panels of one scale side by side, as many as are readable; one below the other on a phone. */
function drawPanels(panels, traces, cost, points, withChance) {
  const width = byId("trade-off-plot").clientWidth;
  const most = width < 600 ? 1 : width < 900 || panels.length === 4 ? 2 : 3;
  const columns = Math.min(most, panels.length);
  const lines = Math.ceil(panels.length / columns);
  const height = panels.length === 1 ? undefined : width < 600 ? 250 : 340;
  const [wide, high] = [40 / width, 75 / (lines * (height ?? 480))]; // between panels, as shares
  const [share, tall] = [(1 - wide * (columns - 1)) / columns, (1 - high * (lines - 1)) / lines];
  const memory = cost !== "trainable";
  const values = points.flatMap(({ x, alone }) => (alone === null ? [x] : [x, alone]));
  const ticks = memory ? byteTicks(values, Math.max(2, Math.floor((width * share) / 85))) : { type: "log", dtick: 1 };
  const name = { run: "Peak GPU memory, whole run", train: "Peak GPU memory, training alone", trainable: "Trainable parameters, with head" };
  const layout = { shapes: [], annotations: [] };
  for (const [number, { resolution }] of panels.entries()) {
    const [line, column] = [Math.floor(number / columns), number % columns];
    const domain = [column * (share + wide), column * (share + wide) + share];
    const top = 1 - line * (tall + high);
    const shared = number ? [{ matches: "x" }, { matches: "y" }] : [{}, {}];
    const last = number + columns >= panels.length; // of its column
    layout[`xaxis${number ? number + 1 : ""}`] = { ...AXIS, ...ticks, ...shared[0], domain, anchor: axisName("y", number), title: { text: last ? `${name[cost]} (log)` : "" } };
    layout[`yaxis${number ? number + 1 : ""}`] = { ...AXIS, ...shared[1], domain: [top - tall, top], anchor: axisName("x", number), showticklabels: column === 0, title: { text: column ? "" : "Test AUC (%)" } };
    layout.annotations.push({ xref: "paper", yref: "paper", x: domain[0], y: top, xanchor: "left", yanchor: "bottom", showarrow: false, text: `<b>${resolution} px</b>` });
    if (withChance) layout.shapes.push({ type: "line", xref: `${axisName("x", number)} domain`, yref: axisName("y", number), x0: 0, x1: 1, y0: 50, y1: 50, line: { color: "#555", width: 1, dash: "dot" } });
  }
  draw("trade-off-plot", traces, layout, height && lines * height);
}

/** Of many labels those on the front, and full fine-tuning. */
function namedHere(lines, front) {
  if (lines.length <= FEW) return new Set(lines.map(([label]) => label));
  return new Set([...front.map(({ row }) => row.label), ...lines.map(([label]) => label).filter((label) => DATA.styles[label].idea === "full")]);
}

/** What a figure of many does not name: small and grey. */
function greyPoints(label, own, cost) {
  return {
    name: plain(label), mode: "markers", showlegend: false, cliponaxis: false, marker: { color: GREY, size: 6 },
    x: own.map(({ x }) => x), y: own.map(({ y }) => y), customdata: own.map(recordOf), hoverinfo: "text",
    hovertext: own.map((point) => hoverOf(point, cost === "trainable" ? point.x.toLocaleString("en") : bytes(point.x))),
  };
}

const recordOf = ({ row }) => runsOf(row.index).find((run) => run.state === "ok")?.id;
const hoverOf = ({ row, y, predicted }, size) => `${plain(row.label)}, ${row.resolution_text}<br>AUC ${y.toFixed(2)} %${markOf(row)}<br>${size}${predicted ? "†" : ""}`;

/** How far the whiskers of points reach above and below them. */
function reachOf(own) {
  const ends = own.map(({ row, y }) => intervalOf(row) ?? [y, y]);
  return { array: own.map(({ y }, i) => Math.max(0, ends[i][1] - y)), arrayminus: own.map(({ y }, i) => Math.max(0, y - ends[i][0])) };
}

function tradeOffTrace(label, own, cost) {
  const { colour, symbol } = DATA.styles[label];
  return {
    name: plain(label), mode: own.some(({ row }) => markOf(row)) ? "markers+text" : "markers", cliponaxis: false,
    x: own.map(({ x }) => x), y: own.map(({ y }) => y),
    error_y: { type: "data", symmetric: false, ...reachOf(own), color: colour, thickness: 1, width: 3, visible: own.some(({ row }) => intervalOf(row)) },
    marker: { color: colour, size: 11, symbol: own.map(({ predicted }) => symbol + (predicted ? HOLLOW : "")), line: { color: colour, width: 2 } },
    text: own.map(({ row }) => markOf(row)), textposition: "top center", textfont: { size: 11, color: "#333" },
    customdata: own.map(recordOf),
    hovertext: own.map((point) => hoverOf(point, cost === "trainable" ? point.x.toLocaleString("en") : bytes(point.x))),
    hoverinfo: "text",
  };
}

/** Small lighter marks for training alone, each joined with its whole run; nothing where there are none. */
function aloneTrace(own) {
  if (!own.length) return [];
  const { colour, symbol } = DATA.styles[own[0].row.label];
  const pairs = (first, second) => own.flatMap((point) => [first(point), second(point), null]);
  return [{
    name: `${plain(own[0].row.label)}, training alone`, mode: "lines+markers", showlegend: false, opacity: 0.45, cliponaxis: false,
    x: pairs(({ x }) => x, ({ alone }) => alone), y: pairs(({ y }) => y, ({ y }) => y), line: { color: colour, width: 1.2 },
    marker: { color: colour, size: pairs(() => 0, () => 6), symbol: pairs(() => symbol, ({ predicted }) => symbol + (predicted ? HOLLOW : "")) },
    customdata: pairs(recordOf, recordOf), hoverinfo: "text",
    hovertext: pairs((point) => hoverOf(point, bytes(point.x)), (point) => hoverOf(point, `training alone ${bytes(point.alone)}`)),
  }];
}

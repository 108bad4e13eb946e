"use strict";
// AUC against cost with its Pareto front, and learning curves.

const HOLLOW = "-open";

const NEAR_CHANCE = 60; // percent: an axis that reaches below shows chance, 50
const LEVEL = 0.05; // at which methods are told apart

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

/** Points not told apart from the best of their resolution; empty where nothing could be tested. */
function notToldApart(points) {
  const p = ({ row }) => storedOf(row, "vs best p");
  return points.some((point) => p(point) !== null) ? points.filter((point) => p(point) > LEVEL) : [];
}

/** Points that no other matches at lower cost or higher gain, by rising cost. */
function paretoFront(points) {
  const front = [];
  for (const point of [...points].sort((a, b) => a.x - b.x || b.y - a.y)) {
    if (!front.length || point.y > front.at(-1).y) front.push(point);
  }
  return front;
}

/** Ticks of a log axis of bytes, at powers of two, as many as can be read. */
function byteTicks(values) {
  const low = Math.floor(Math.log2(Math.min(...values)));
  const high = Math.ceil(Math.log2(Math.max(...values)));
  const step = Math.ceil((high - low) / 7) || 1;
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
    .map((row) => ({ row, x: row.costs[cost][0], y: 100 * row.auc_mean, predicted: row.costs[cost][1], alone: cost === "run" ? trainingAlone(row) : null }));
  const missing = chosen.filter((row) => runsOf(row.index).length && !points.some((point) => point.row.index === row.index));
  const reason = !DATA.rows.length ? NO_RUNS : !rows.length ? NO_MATCH : points.length ? ""
    : "No finished run here has both an AUC and this cost. Choose another dataset, protocol or cost, or run bench.py --retry-failed.";
  showEmpty("trade-off", reason, byId("trade-off-plot"), byId("trade-off-caption"));
  if (reason) return;
  const several = new Set(points.map(({ row }) => row.resolution)).size > 1;
  // What is left of a method after its failures competes with nothing; nor does measured memory with predicted.
  const complete = points.filter(({ row }) => row.complete);
  const measured = complete.filter((point) => !point.predicted);
  const rivals = measured.length ? measured : complete;
  const members = several ? [] : notToldApart(rivals);
  const start = Math.min(...members.map(({ x }) => x));
  const front = paretoFront(rivals).filter(({ x }) => x < start);
  const lines = Object.keys(DATA.styles).map((label) => [label, points.filter(({ row }) => row.label === label)]).filter(([, own]) => own.length);
  const cheapest = members.filter(({ x }) => x === start);
  const named = namedHere(lines, [...front, ...cheapest]);
  const traces = lines.filter(([label]) => named.has(label)).map(([label, own]) => tradeOffTrace(label, own, cost, several));
  traces.unshift(...traces.map(({ name }) => name).flatMap((name) => aloneTrace(points.filter(({ row, alone }) => plain(row.label) === name && alone !== null))));
  traces.unshift(...lines.filter(([label]) => !named.has(label)).map(([label, own]) => greyPoints(label, own, cost)));
  const end = Math.max(...points.map(({ x }) => x)) * 1.15;
  const [low, high] = [Math.min, Math.max].map((pick) => pick(...members.map(({ y }) => y)));
  if (members.length) traces.unshift({
    name: "not told apart from the best", mode: "lines", fill: "toself", fillcolor: "rgba(0, 0, 0, 0.12)", line: { color: "#999", width: 1 }, hoverinfo: "skip",
    x: [start, end, end, start, start], y: [low, low, high, high, low],
  });
  if (front.length) traces.unshift({
    name: members.length ? "best for less memory" : "Pareto front", mode: "lines", line: { shape: "hv", color: "#888", width: 1.5 }, hoverinfo: "skip",
    x: [...front.map(({ x }) => x), members.length ? start : end], y: [...front.map(({ y }) => y), members.length ? low : front.at(-1).y],
  });
  const lowest = Math.min(...points.map(({ row, y }) => intervalOf(row)?.[0] ?? y));
  const chance = { type: "line", xref: "paper", x0: 0, x1: 1, y0: 50, y1: 50, line: { color: "#555", width: 1, dash: "dot" } };
  const memory = cost !== "trainable";
  const axis = memory ? byteTicks(points.flatMap(({ x, alone }) => (alone === null ? [x] : [x, alone]))) : { type: "log", dtick: 1 };
  const name = { run: "Peak GPU memory, whole run", train: "Peak GPU memory, training alone", trainable: "Trainable parameters, with head" };
  draw("trade-off-plot", traces, {
    xaxis: { ...AXIS, ...axis, title: { text: `${name[cost]} (log)` } },
    yaxis: { ...AXIS, title: { text: "Test AUC (%)" } },
    shapes: lowest < NEAR_CHANCE ? [chance] : [],
  });
  const { spread, synthetic, footnotes } = group(chosen[0]);
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
    members.length ? "Band: from the highest mean to the lowest that is not told apart from it (at 0.05, all rivals at once), from the cheapest of these on." : "The front joins what nothing else beats in both.",
    members.length || !several ? "" : "Choose one resolution above to see what is not told apart from the best.",
    "Choose a point to see its record.",
    ...footnotes.filter((note) => !note.startsWith("†")),
  ].filter(Boolean).join(" ");
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

function tradeOffTrace(label, own, cost, several) {
  const { colour, symbol } = DATA.styles[label];
  return {
    name: plain(label), mode: several || own.some(({ row }) => markOf(row)) ? "markers+text" : "markers", cliponaxis: false,
    x: own.map(({ x }) => x), y: own.map(({ y }) => y),
    error_y: { type: "data", symmetric: false, ...reachOf(own), color: colour, thickness: 1, width: 3, visible: own.some(({ row }) => intervalOf(row)) },
    marker: { color: colour, size: 11, symbol: own.map(({ predicted }) => symbol + (predicted ? HOLLOW : "")), line: { color: colour, width: 2 } },
    text: own.map(({ row }) => (several ? String(row.resolution) : "") + markOf(row)), textposition: "top center", textfont: { size: 11, color: "#333" },
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

const QUANTITIES = { val_auc: "Validation AUC", loss: "Training loss", lr: "Learning rate", seconds: "Seconds an epoch" };

function drawLearning(rows) {
  fill(byId("learning-group"), choices(rows, true));
  drawWith("learning", partOf(byId("learning-group")), ({ contents }) => drawCurves(rows, contents));
}

function drawCurves(rows, contents) {
  const chosen = rows.filter((row) => `${row.group}/${row.resolution}` === byId("learning-group").value);
  const runs = chosen.flatMap((row) => runsOf(row.index).map((run) => ({ run, label: row.label, mark: row.auc_marks, history: contents[run.id].measurements.history ?? [] })));
  const keys = new Set(runs.flatMap(({ history }) => history.flatMap((epoch) => Object.keys(epoch))));
  keys.delete("epoch");
  const first = (key) => (key in QUANTITIES ? Object.keys(QUANTITIES).indexOf(key) : 9);
  const options = [...keys].sort((a, b) => first(a) - first(b)).map((key) => ({ value: key, text: QUANTITIES[key] ?? key.replace(/_/g, " ") }));
  fill(byId("learning-quantity"), options);
  const key = byId("learning-quantity").value;
  const drawn = runs.filter(({ history }) => history.some((epoch) => epoch[key] !== undefined));
  const reason = !DATA.rows.length ? NO_RUNS : !rows.length ? NO_MATCH : drawn.length ? ""
    : "No run here stored a history of its epochs. Train again with bench.py --overwrite.";
  showEmpty("learning", reason, byId("learning-plot"), byId("learning-caption"));
  if (reason) return;
  const best = ({ run }) => contents[run.id].run.selection?.best_epoch;
  const lines = Map.groupBy(drawn, ({ label }) => label);
  const few = fewOf(new Map(chosen.filter(({ label }) => lines.has(label)).map((row) => [row.label, -(row.auc_mean ?? 0)])));
  const traces = [...lines]
    .sort(([a], [b]) => few.has(a) - few.has(b)) // the grey ones below
    .flatMap(([label, own]) => curveTraces(label, own, key, best, few.has(label)));
  byId("learning-caption").textContent = [
    key === "val_auc" ? "Dotted line: chance." : "",
    "A line a run, its seeds alike; the large ringed marker is the epoch that validation picked.",
    saidOfFew(lines.size, few.size, "full fine-tuning and the best of each idea"),
    ...group(chosen[0]).footnotes.filter((note) => DATA.auc_marks.includes(note[0])),
  ].filter(Boolean).join(" ");
  const chance = { type: "line", xref: "paper", x0: 0, x1: 1, y0: 0.5, y1: 0.5, line: { color: "#555", width: 1, dash: "dot" } };
  const last = Math.max(...drawn.flatMap(({ history }) => history.map(({ epoch }) => epoch)));
  draw("learning-plot", traces, {
    xaxis: { ...AXIS, title: { text: "Epoch" }, tick0: 0, dtick: Math.ceil(last / 10) },
    yaxis: { ...AXIS, title: { text: QUANTITIES[key] ?? plain(key.replace(/_/g, " ")) } },
    shapes: key === "val_auc" ? [chance] : [],
  });
}

const FEW_LINES = 8; // of a method, whose every epoch may have a marker: more hide each other, and take seconds to draw

/** The runs of a method, with a gap between them; a marker with a ring is the epoch that was picked. */
function curveTraces(label, own, key, best, named) {
  const { colour, symbol, dash } = DATA.styles[label];
  const shared = { name: plain(label) + own[0].mark, legendgroup: label, cliponaxis: false, hoverinfo: "text" };
  const points = own.flatMap(({ run, history, ...line }) => [...history.map((epoch) => ({ epoch, run, picked: epoch.epoch === best({ run, ...line }) })), null]).slice(0, -1);
  const picked = points.filter((point) => point?.picked);
  const places = (shown) => {
    const each = (value, gap) => shown.map((point) => (point === null ? gap : value(point)));
    return {
      x: each(({ epoch }) => epoch.epoch, null), y: each(({ epoch }) => epoch[key] ?? null, null),
      customdata: each(({ run }) => run.id, null),
      hovertext: each((point) => `${plain(label)}, seed ${point.run.seed}<br>epoch ${point.epoch.epoch}${point.picked ? " (picked)" : ""}: ${point.epoch[key]}`, ""),
    };
  };
  const ringed = (shown) => ({
    symbol, color: colour, size: shown.map((point) => (point?.picked ? 12 : 6)),
    line: { color: "#000", width: shown.map((point) => (point?.picked ? 2 : 0)) },
  });
  if (!named) return [{ ...shared, ...places(points), mode: "lines", line: { color: GREY, width: 1 }, showlegend: false }];
  const line = { color: colour, dash, width: 1.8 };
  if (own.length <= FEW_LINES) return [{ ...shared, ...places(points), mode: "lines+markers", line, marker: ringed(points) }];
  return [
    { ...shared, ...places(points), mode: "lines", line: { ...line, width: 1 }, opacity: 0.6 },
    { ...shared, ...places(picked), mode: "markers", marker: ringed(picked), showlegend: false },
  ];
}

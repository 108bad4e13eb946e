"use strict";
// Learning curves of runs, and beside what validation scored what the test images did.

const QUANTITIES = { val_auc: "AUC (%)", loss: "Training loss", lr: "Learning rate", seconds: "Seconds an epoch" };
const PERCENT = { val_auc: 100 }; // drawn on the scale of the table
const scaled = (key, value) => (typeof value === "number" ? value * (PERCENT[key] ?? 1) : null);
/** The test score beside a score of validation; null of what is not scored. */
const testOf = (content, key) => (key.startsWith("val_") ? scaled(key, content.measurements.test?.[key.slice(4)]) : null);

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
  const options = [...keys].sort((a, b) => first(a) - first(b)).map((key) => ({ value: key, text: key === "val_auc" ? "Validation AUC" : QUANTITIES[key] ?? key.replace(/_/g, " ") }));
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
  const last = Math.max(...drawn.flatMap(({ history }) => history.map(({ epoch }) => epoch)));
  const tested = drawn.map(({ run, label }) => ({ run, label, y: testOf(contents[run.id], key) })).filter(({ y }) => y !== null);
  const traces = [...lines]
    .sort(([a], [b]) => few.has(a) - few.has(b)) // the grey ones below
    .flatMap(([label, own]) => curveTraces(label, own, key, best, few.has(label)));
  traces.push(...testTraces(tested, key, last, few));
  byId("learning-caption").textContent = [
    key === "val_auc" ? "Dotted line: chance (50)." : "",
    tested.length ? "Right of the last epoch, on the same scale: what the picked epoch scores on the test images." : "",
    "A line a run, its seeds alike; the large ringed marker is the epoch that validation picked.",
    saidOfFew(lines.size, few.size, "full fine-tuning and the best of each idea"),
    ...group(chosen[0]).footnotes.filter((note) => DATA.auc_marks.includes(note[0])),
  ].filter(Boolean).join(" ");
  const chance = { type: "line", xref: "paper", x0: 0, x1: 1, y0: 50, y1: 50, line: { color: "#555", width: 1, dash: "dot" } };
  const apart = Math.ceil(last / (byId("learning-plot").clientWidth < 600 ? 5 : 10));
  const epochs = Array.from({ length: Math.floor((last - 0.6 * apart) / apart) + 1 }, (_, i) => i * apart).concat(last);
  const ticks = tested.length ? { tickvals: [...new Set(epochs), testPlace(last)], ticktext: [...new Set(epochs), "test"] } : { tick0: 0, dtick: apart };
  const edge = { type: "line", yref: "paper", x0: (last + testPlace(last)) / 2, x1: (last + testPlace(last)) / 2, y0: 0, y1: 1, line: { color: "#999", width: 1 } };
  draw("learning-plot", traces, {
    xaxis: { ...AXIS, title: { text: "Epoch" }, ...ticks },
    yaxis: { ...AXIS, title: { text: QUANTITIES[key] ?? plain(key.replace(/_/g, " ")) } },
    shapes: [...(key === "val_auc" ? [chance] : []), ...(tested.length ? [edge] : [])],
  });
}

const testPlace = (last) => last + Math.max(0.12 * last, 0.5); // right of the last epoch

/** A marker for the test score of each run, the methods side by side. */
function testTraces(tested, key, last, few) {
  const methods = Map.groupBy(tested, ({ label }) => label);
  const labels = Object.keys(DATA.styles).filter((label) => methods.has(label)); // in one order, whatever is drawn on top
  const beside = (label) => (labels.indexOf(label) + 0.5) / labels.length - 0.5;
  return labels.map((label) => {
    const { colour, symbol } = DATA.styles[label];
    const own = methods.get(label);
    return {
      name: `${plain(label)}, test`, legendgroup: label, showlegend: false, mode: "markers", cliponaxis: false, hoverinfo: "text",
      marker: { symbol, color: few.has(label) ? colour : GREY, size: 8 },
      x: own.map(() => testPlace(last) + 0.08 * last * beside(label)), y: own.map(({ y }) => y), customdata: own.map(({ run }) => run.id),
      hovertext: own.map(({ run, y }) => `${plain(label)}, seed ${run.seed}<br>test: ${y.toFixed(key in PERCENT ? 2 : 4)}`),
    };
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
      x: each(({ epoch }) => epoch.epoch, null), y: each(({ epoch }) => scaled(key, epoch[key]), null),
      customdata: each(({ run }) => run.id, null),
      hovertext: each((point) => `${plain(label)}, seed ${point.run.seed}<br>epoch ${point.epoch.epoch}${point.picked ? " (picked)" : ""}: ${scaled(key, point.epoch[key])}`, ""),
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

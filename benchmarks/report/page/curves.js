"use strict";
// ROC, precision-recall and reliability curves of one method at one place, means over seeds with bands.

const CURVES = {
  roc: { x: "False-positive rate", y: "Sensitivity", chance: true },
  pr: { x: "Recall", y: "Precision", chance: false },
  reliability: { x: "Confidence", y: "Accuracy", chance: true },
  scaled: { x: "Confidence, temperature scaled", y: "Accuracy", chance: true },
};

function drawScoreCurves(rows) {
  fill(byId("curves-group"), choices(rows, true));
  const chosen = rows.filter((row) => `${row.group}/${row.resolution}` === byId("curves-group").value && runsOf(row.index).length);
  fill(byId("curves-row"), chosen.map((row) => ({ value: row.index, text: row.label, key: row.label })));
  const row = chosen.find(({ index }) => String(index) === byId("curves-row").value);
  drawWith("curves", partOf(byId("curves-group")), ({ curves }) => drawCurve(rows, row, curves?.[row?.index]));
}

function drawCurve(rows, row, curves) {
  const kind = byId("curves-kind").value;
  const curve = curves?.[kind];
  const reason = !DATA.rows.length ? NO_RUNS : !rows.length ? NO_MATCH : curve ? ""
    : "No run here has predictions from which this curve can be drawn. Choose another, or run bench.py --retry-failed.";
  showEmpty("curves", reason, byId("curves-plot"), byId("curves-caption"));
  if (reason) return;
  const { x, y, chance } = CURVES[kind];
  const isBinned = curve.beside !== undefined;
  const places = curve.mean.map((_, i) => (isBinned ? curve.beside[0][i] / 1000 : i / (curve.mean.length - 1)));
  const points = curve.mean.map((value, i) => ({ x: places[i], y: value, half: curve.half[i], share: isBinned ? curve.beside[1][i] : null }))
    .filter((point) => point.y !== null)
    .map((point) => ({ ...point, y: point.y / 1000, half: point.half / 1000 }));
  const { colour, symbol } = DATA.styles[row.label];
  const edge = (sign) => points.map((point) => Math.min(1, Math.max(0, point.y + sign * point.half)));
  const line = {
    name: plain(row.label) + markOf(row), mode: isBinned ? "lines+markers" : "lines", line: { color: colour, width: 2 },
    x: points.map((point) => point.x), y: points.map((point) => point.y), cliponaxis: false, hoverinfo: "text",
    hovertext: points.map((point) => `${x.toLowerCase()} ${percent(point.x)} %<br>${y.toLowerCase()} ${percent(point.y)} ± ${percent(point.half)} %`
      + (isBinned ? `<br>${percent(point.share / 1000)} % of images` : "")),
    marker: { color: colour, symbol, size: points.map((point) => (isBinned ? 5 + Math.sqrt(point.share) / 2 : 0)) },
  };
  const band = {
    name: "95 % band", mode: "lines", fill: "toself", fillcolor: colour, opacity: 0.18, line: { width: 0 }, hoverinfo: "skip",
    x: [...line.x, ...[...line.x].reverse()], y: [...edge(1), ...edge(-1).reverse()],
  };
  const diagonal = { name: kind === "roc" ? "chance" : "calibrated", mode: "lines", x: [0, 1], y: [0, 1], hoverinfo: "skip", line: { color: "#888", dash: "dot", width: 1.5 } };
  const axis = (text) => ({ ...AXIS, title: { text }, range: [0, 1], tickformat: ".0%" });
  draw("curves-plot", [...(chance ? [diagonal] : []), band, line], { xaxis: axis(x), yaxis: axis(y) });
  byId("curves-caption").textContent = [
    `Mean over ${plural(runsOf(row.index).filter(({ state }) => state === "ok").length, "seed")}.`,
    isBinned ? "15 bins of the likeliest class's probability; larger marks hold more images." : "Of two classes the second is the positive one; of more the mean over classes, one against the rest.",
    "The band is pointwise: images (or patients) and seeds.",
    group(row).synthetic ? "Synthetic images: this ranks nothing." : "",
  ].filter(Boolean).join(" ");
}

"use strict";
// What to use, by place: the sentences that bench.py advise prints.

const FEW_VERDICTS = 3; // more are closed, a line each

function drawVerdicts(rows) {
  const places = new Set(rows.map((row) => `${row.group}/${row.resolution}`));
  const shown = DATA.verdicts.filter(({ group: place, resolution }) => places.has(`${place}/${resolution}`));
  showEmpty("verdicts", DATA.rows.length ? (rows.length ? "" : NO_MATCH) : NO_RUNS, byId("verdicts"));
  byId("verdicts").replaceChildren(...shown.map(({ heading, short, sentences }) => {
    const lines = sentences.map((sentence) => make("li", {}, sentence));
    return make("details", { open: shown.length <= FEW_VERDICTS },
      make("summary", {}, make("strong", {}, short), ` · ${heading}`), make("ul", {}, ...lines));
  }));
}

"use strict";
// Sections that are tables: models in use, subgroups, ensembles. Only pages with any have this script.

/** The rows of a table that pass those filters that know them. */
const inUse = (rows) => rows.filter((row) => Object.keys(FILTERS).every((name) => {
  const chosen = byId(`filter-${name}`).value;
  return chosen === "" || row[name] === undefined || String(row[name]) === chosen;
}));

function drawUse() {
  for (const { id, tables } of DATA.use) {
    const shown = tables.map((table) => ({ ...table, rows: inUse(table.rows) })).filter(({ rows }) => rows.length);
    byId(`${id}-tables`).replaceChildren(...shown.flatMap(useTable));
    showEmpty(id, shown.length ? "" : NO_MATCH);
  }
}

function useTable({ caption, columns, rows }) {
  const fixed = { scope: "row", style: "position: sticky; left: 0; background: var(--paper); border-right: 1px solid var(--line)" };
  const head = columns.map((title, i) => make("th", { scope: "col", className: i ? "" : "text" }, title));
  const body = rows.map(({ cells, resolution }, i) => make("tr", { className: i && rows[i - 1].resolution !== resolution ? "new-part" : "" },
    ...cells.map((cell, j) => (j ? make("td", {}, cell) : make("th", fixed, cell)))));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
  const scroll = make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `${caption} Scrolls sideways` }, table);
  return [make("p", { className: "note" }, caption), scroll];
}

for (const { id, title, said } of DATA.use) {
  byId("records").before(make("section", { id }, make("h2", {}, title), make("p", { className: "empty", id: `${id}-empty` }),
    make("div", { id: `${id}-tables` }), make("details", {}, make("summary", {}, "How to read"), make("p", {}, said))));
  document.querySelector("nav a[href='#records']").before(make("a", { href: `#${id}` }, title));
}
FURTHER.push(drawUse);

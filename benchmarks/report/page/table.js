"use strict";
// The table: every row of every dataset and protocol, filtered and sorted; on a phone a card each, see cards.js.

const FIRST_LINES = 60; // that are on the first screen; the others of hundreds take as long to lay out as all else

/** The column that rows are sorted by, and in which direction, as the select of a phone and the address hold it. */
function sorting() {
  const [direction, ...title] = byId("sort").value.split(" ");
  return direction ? { column: title.join(" "), direction } : { column: null, direction: "none" };
}

function offerSorting(columns) {
  const words = (column) => (column.words ? ["from A to Z", "from Z to A"] : ["lowest first", "highest first"]);
  const options = columns.filter(({ runs }) => !runs).flatMap((column) => ["ascending", "descending"]
    .map((direction, i) => ({ value: `${direction} ${column.title}`, text: `${column.title}, ${words(column)[i]}` })));
  fill(byId("sort"), [{ value: "", text: "the order of the tables" }, ...options]);
}

/** The columns as they are now: a title, whether more or less is better, and the cell of a row. */
function tableColumns() {
  const several = (values) => new Set(values).size > 1;
  const text = (value) => [value, "", 0];
  const own = DATA.columns.map(({ title, better }, i) => ({ title, better, cell: (row) => row.cells[i] }));
  const [method, ...others] = own;
  const headline = others.find(({ better }) => better === 1); // in sight on a phone, too
  const rest = others.filter((column) => column !== headline);
  const front = [{ ...method, words: true }, { title: "Image side", better: 0, cell: (row) => text(row.resolution_text) }];
  const place = [
    { title: "Dataset", better: 0, words: true, cell: (row) => text(group(row).dataset) },
    { title: "Protocol", better: 0, words: true, cell: (row) => text(group(row).block) },
  ].filter(({ cell }) => several(DATA.rows.map((row) => cell(row)[0])));
  const extra = byId("all-columns").checked
    ? DATA.extra.map((title, i) => ({ title, better: 0, cell: (row) => text(row.extra[i]) }))
    : [];
  const runs = { title: "Runs", better: 0, words: true, runs: true, cell: () => text("") };
  return [...front, ...(headline ? [headline] : []), ...place, ...rest, ...extra, runs];
}

/** The number a cell starts with; null where it has none. */
function numberOf(text) {
  const match = /^<?\s*([+-]?[\d,.]+(?:e[+-]?\d+)?)/.exec(text.replace("−", "-"));
  return match ? Number(match[1].replace(/,/g, "")) : null;
}

/** Rows in the order asked for; what has no number comes last in both directions. */
function sorted(rows, columns) {
  const { column: chosen, direction } = sorting();
  const column = columns.find(({ title }) => title === chosen);
  if (!column) return rows;
  const sign = direction === "ascending" ? 1 : -1;
  const value = (row) => (column.words ? column.cell(row)[0] : numberOf(column.cell(row)[0]));
  return [...rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (column.words ? x.localeCompare(y) : x - y);
  });
}

function drawTable(rows) {
  const columns = tableColumns();
  offerSorting(columns);
  const [table, narrow] = [byId("results"), NARROW.matches];
  const both = [byId("results-scroll"), byId("cards")];
  const [shown, hidden] = narrow ? both.reverse() : both;
  showEmpty("results", DATA.rows.length ? (rows.length ? "" : NO_MATCH) : NO_RUNS, shown);
  hidden.hidden = true;
  (narrow ? table : byId("cards")).replaceChildren();
  drawProtocols(rows);
  if (narrow) drawCards(sorted(rows, columns), columns);
  else drawLines(rows, columns, table);
}

function drawLines(rows, columns, table) {
  const { column: chosen, direction: way } = sorting();
  const head = columns.map((column) => {
    const arrow = { "-1": " ↓", 0: "", 1: " ↑" }[column.better];
    const direction = chosen === column.title ? way : "none";
    if (column.runs) return make("th", { scope: "col", className: "text" }, column.title);
    const mark = { none: "", ascending: " ▲", descending: " ▼" }[direction];
    const button = make("button", { type: "button" }, `${column.title}${arrow}${mark}`);
    button.addEventListener("click", () => sortBy(column));
    return make("th", { scope: "col", "aria-sort": direction, className: column.words ? "text" : "" }, button);
  });
  let [part, idea] = [null, null];
  const headed = Math.max(0, ...[...Map.groupBy(rows, (row) => `${row.group}/${row.resolution}`).values()].map((own) => own.length)) > FEW;
  const body = sorted(rows, columns).flatMap((row) => {
    const here = `${row.group}/${row.resolution}`;
    const begins = way === "none" && part !== null && here !== part;
    part = here;
    const cells = columns.map((column, i) => (i ? dataCell(column, row) : make("th", { scope: "row" }, column.cell(row).slice(0, 2).join(""))));
    const line = make("tr", { className: begins ? "new-part" : "" }, ...cells);
    if (way !== "none" || !headed) return [line];
    const beginsIdea = row.idea !== idea || begins;
    idea = row.idea;
    const heading = make("th", { scope: "rowgroup", colSpan: columns.length }, row.idea);
    return beginsIdea ? [make("tr", { className: `idea ${begins ? "new-part" : ""}` }, heading), line] : [line];
  });
  const lines = make("tbody", {}, ...body.slice(0, FIRST_LINES));
  table.replaceChildren(make("thead", {}, make("tr", {}, ...head)), lines);
  if (body.length > FIRST_LINES) FIRST_SCREEN.then(() => lines.append(...body.slice(FIRST_LINES)));
}

function dataCell(column, row) {
  const [text] = column.cell(row);
  const className = column.runs ? "text" : column.words ? "text clipped" : "";
  return make("td", { className, title: column.words ? text : "" }, ...valueOf(column, row));
}

const FEW_RUNS = 8;

/** Links to the records of runs; of many, once they are asked for. */
function runLinks(runs) {
  const links = () => runs.map((run) => make("a", { href: recordHash(run.id), title: run.id }, `seed ${run.seed}`)).flatMap((link, i) => (i ? [", ", link] : [link]));
  if (runs.length <= FEW_RUNS) return links();
  const list = make("details", { className: "runs" }, make("summary", {}, plural(runs.length, "seed")));
  list.addEventListener("toggle", () => { if (list.children.length === 1) list.append(make("p", {}, ...links())); });
  return [list];
}

/** First press: best first, or from the beginning; second: the other way; third: the order of the data. */
function sortBy(column) {
  const first = column.better === 1 ? "descending" : "ascending";
  const second = first === "ascending" ? "descending" : "ascending";
  const { column: chosen, direction } = sorting();
  const now = chosen === column.title ? direction : "none";
  const next = now === "none" ? first : now === first ? second : "";
  byId("sort").value = next && `${next} ${column.title}`;
  const place = [...document.activeElement.closest("tr")?.children ?? []].indexOf(document.activeElement.closest("th"));
  drawTable(shownRows());
  writeAddress();
  if (place >= 0) byId("results").querySelectorAll("thead th")[place].querySelector("button").focus();
}

/** What stands behind the rows that are shown. */
function drawProtocols(rows) {
  const shown = [...new Set(rows.map((row) => row.group))].map((index) => DATA.groups[index]);
  byId("protocols").replaceChildren(...shown.map((part) => make("div", { className: "note" },
    make("p", {}, `${part.dataset}, protocol ${part.block}: ${part.protocol}. ${part.spread}. ${part.preloading}`),
    ...part.footnotes.map((line) => make("p", {}, line)))));
}

/** Text as LaTeX prints it; hyphens, commas and apostrophes, which it would join, stay apart. */
const tex = (text) => [...text.replace(/\s+/g, " ")].map((character) => DATA.tex[character] ?? character).join("").replace(/([-,'])(?=\1)/g, "$1{}");

/** The rows and columns that are shown, without their runs, as a booktabs table. */
function latexOf(rows) {
  const columns = tableColumns().filter(({ runs }) => !runs);
  const line = (cells) => `${cells.join(" & ")} \\\\`;
  const bold = ["$1", "\\textbf{$1}", "\\underline{$1}"];
  const cell = (column, row) => {
    const [text, mark, rank] = column.cell(row);
    return bold[rank].replace("$1", () => tex(text)) + tex(mark);
  };
  const head = columns.map(({ title, better }) => tex(`${title}${{ "-1": " ↓", 0: "", 1: " ↑" }[better]}`));
  const align = columns.map(({ words }) => (words ? "l" : "r")).join("");
  const body = sorted(rows, columns).map((row) => line(columns.map((column) => cell(column, row))));
  return ["% Needs \\usepackage{booktabs}.", `\\begin{tabular}{${align}}`, "\\toprule", line(head), "\\midrule", ...body, "\\bottomrule", "\\end{tabular}", ""].join("\n");
}

/** Copies the table as LaTeX where the browser lets a page do so, and shows it in any case. */
async function copyLatex() {
  const box = byId("latex");
  box.value = latexOf(shownRows());
  box.hidden = false;
  box.select();
  byId("copied").textContent = await navigator.clipboard?.writeText(box.value).then(() => "Copied.", () => null) ?? "Selected below: copy it from there.";
}

"use strict";
// The table: every row of every dataset and protocol, filtered and sorted.

const FIRST_LINES = 60; // that are on the first screen; the others of hundreds take as long to lay out as all else

let sorting = { column: null, direction: "none" };

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
  const column = columns.find(({ title }) => title === sorting.column);
  if (!column || sorting.direction === "none") return rows;
  const sign = sorting.direction === "ascending" ? 1 : -1;
  const value = (row) => (column.words ? column.cell(row)[0] : numberOf(column.cell(row)[0]));
  return [...rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (column.words ? x.localeCompare(y) : x - y);
  });
}

function drawTable(rows) {
  const columns = tableColumns();
  const table = byId("results");
  showEmpty("results", DATA.rows.length ? (rows.length ? "" : NO_MATCH) : NO_RUNS, table);
  const head = columns.map((column) => {
    const arrow = { "-1": " ↓", 0: "", 1: " ↑" }[column.better];
    const direction = sorting.column === column.title ? sorting.direction : "none";
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
    const begins = sorting.direction === "none" && part !== null && here !== part;
    part = here;
    const cells = columns.map((column, i) => (i ? dataCell(column, row) : make("th", { scope: "row" }, column.cell(row).slice(0, 2).join(""))));
    const line = make("tr", { className: begins ? "new-part" : "" }, ...cells);
    if (sorting.direction !== "none" || !headed) return [line];
    const beginsIdea = row.idea !== idea || begins;
    idea = row.idea;
    const heading = make("th", { scope: "rowgroup", colSpan: columns.length }, row.idea);
    return beginsIdea ? [make("tr", { className: `idea ${begins ? "new-part" : ""}` }, heading), line] : [line];
  });
  const lines = make("tbody", {}, ...body.slice(0, FIRST_LINES));
  table.replaceChildren(make("thead", {}, make("tr", {}, ...head)), lines);
  if (body.length > FIRST_LINES) FIRST_SCREEN.then(() => lines.append(...body.slice(FIRST_LINES)));
  drawProtocols(rows);
}

function dataCell(column, row) {
  if (column.runs) {
    return make("td", { className: "text" }, ...runLinks(runsOf(row.index)));
  }
  const [text, mark, rank] = column.cell(row);
  const value = make("span", { className: ["", "best", "second"][rank] }, text);
  return make("td", { className: column.words ? "text clipped" : "", title: column.words ? text : "" }, value, mark);
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
  const now = sorting.column === column.title ? sorting.direction : "none";
  sorting = { column: column.title, direction: now === "none" ? first : now === first ? second : "none" };
  const place = [...document.activeElement.closest("tr")?.children ?? []].indexOf(document.activeElement.closest("th"));
  drawTable(shownRows());
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

"use strict";
// The rows of the table on a phone: a card each, with what is asked for first, and the rest folded.

const NARROW = matchMedia("(max-width: 40rem)");
const FIRST_CARDS = 20; // that are laid out with the first screen
const ON_CARDS = ["Memory (MiB)", "Trainable (%)"];

function drawCards(rows, columns) {
  const list = byId("cards");
  const cards = (some) => some.map((row) => make("li", {}, ...cardOf(row, columns)));
  list.replaceChildren(...cards(rows.slice(0, FIRST_CARDS)));
  if (rows.length > FIRST_CARDS) FIRST_SCREEN.then(() => list.append(...cards(rows.slice(FIRST_CARDS))));
}

/** The score that ranks methods, its interval, and what is paid for it; all other columns once they are asked for. */
function cardOf(row, columns) {
  const [method, side, headline, ...rest] = columns;
  const score = headline.title.replace(/ \(.*/, "");
  const interval = rest.find(({ title }) => title.startsWith(`${score} 95 % CI`));
  const first = [headline, interval, ...ON_CARDS.map((name) => rest.find(({ title }) => title === name))].filter(Boolean);
  const others = rest.filter((column) => !first.includes(column));
  const place = others.filter(({ title }) => title === "Dataset");
  const facts = (some) => make("dl", {}, ...some.flatMap((column) => [make("dt", {}, column.title), make("dd", {}, ...valueOf(column, row))]));
  const more = make("details", {}, make("summary", {}, "All columns, and the runs"));
  more.addEventListener("toggle", () => { if (more.children.length === 1) more.append(facts(others)); });
  return [
    make("h3", {}, method.cell(row).slice(0, 2).join(""), ` · ${side.cell(row)[0]}`),
    ...place.map((column) => make("p", { className: "note" }, column.cell(row)[0])),
    facts(first), more,
  ];
}

/** What a cell holds. */
function valueOf(column, row) {
  if (column.runs) return runLinks(runsOf(row.index));
  const [text, mark, rank] = column.cell(row);
  return [make("span", { className: ["", "best", "second"][rank] }, text), mark];
}

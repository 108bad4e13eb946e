"use strict";
// Puts the page together, and draws again what a control changes.

function drawAbout() {
  const runs = RUNS.size;
  const count = (values) => new Set(values).size;
  const parts = [
    runs === 0 ? "No runs yet" : `${plural(runs, "run")} of ${plural(count(DATA.runs.row.map((row) => DATA.rows[row]?.label)), "method")} on `
      + `${plural(count(DATA.groups.map(({ dataset }) => dataset)), "dataset")} at ${plural(count(DATA.rows.map(({ resolution }) => resolution)), "resolution")}`,
    DATA.measured.length ? `memory of ${plural(DATA.measured.length, "point")} measured apart` : "",
  ].filter(Boolean);
  byId("about").textContent = `${parts.join("; ")}. ${DATA.latest ? `Latest record: ${DATA.latest.slice(0, 10)}.` : ""} This file needs no network.`;
  const warnings = [...new Set(DATA.groups.filter(({ synthetic }) => synthetic).map(({ dataset }) => `${dataset}: images that a program drew. Its numbers show what this page looks like and rank nothing.`))];
  warnings.push(...DATA.problems);
  byId("warnings").replaceChildren(...warnings.map((text) => make("p", { className: "warning" }, text)));
  byId("definitions").textContent = `${DATA.definitions} † predicted, not measured.`;
}

function drawAll() {
  const rows = shownRows();
  byId("shown").textContent = `${rows.length} of ${plural(DATA.rows.length, "row")}`;
  drawVerdicts(rows);
  drawTable(rows);
  drawTradeOff(rows);
  drawMemory();
  drawLearning(rows);
  drawClasses(rows);
  drawScoreCurves(rows);
  FURTHER.forEach((drawSection) => drawSection());
  writeAddress();
}

/** My card is one, wherever it is chosen: a slider follows the other. */
function followCard(chosen, other, by) {
  const place = Number(byId(chosen).value) + by;
  if (place >= 0) byId(other).value = place;
}

/** Says of what is wider than the page that it scrolls sideways, whenever it is or its content changes. */
function watchWidths() {
  const mark = (area) => area.classList.toggle("goes-on", area.scrollWidth > area.clientWidth + 1);
  const sizes = new ResizeObserver((seen) => seen.forEach(({ target }) => mark(target.closest(".scroll"))));
  const watch = (area) => [area, ...area.children].forEach((element) => sizes.observe(element));
  document.querySelectorAll(".scroll").forEach(watch);
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) {
      for (const added of addedNodes) if (added.matches?.(".scroll")) watch(added);
    }
  }).observe(document.querySelector("main"), { childList: true, subtree: true });
}

function followHash(scroll) {
  const match = /^#record=(.+)$/.exec(location.hash);
  if (match) showRecord(decodeURIComponent(match[1]), scroll);
}

function start() {
  makeFilters();
  makeVerdictControls();
  makeMemoryControls();
  readAddress();
  followCard("my-card", "card", -1);
  checkPanels(new Set([...document.querySelectorAll("details[data-panel]")].map(({ dataset }) => dataset.panel).concat(ADVICE.places.map(placeKey))));
  for (const details of document.querySelectorAll("details[data-panel]")) details.replaceWith(panel(details.dataset.panel, details.open, ...details.children));
  drawAbout();
  drawMachines();
  drawAll();
  const on = (id, event, action) => byId(id).addEventListener(event, action);
  for (const name of Object.keys(FILTERS)) on(`filter-${name}`, "change", drawAll);
  on("filters", "reset", () => setTimeout(drawAll)); // once the selects are reset
  on("filters", "submit", (event) => event.preventDefault());
  on("all-columns", "change", () => drawTable(shownRows()));
  for (const id of ["trade-off-group", "trade-off-cost"]) on(id, "change", () => drawTradeOff(shownRows()));
  for (const id of ["memory-setting", "memory-quantity"]) on(id, "change", drawMemory);
  on("my-card", "input", () => { followCard("my-card", "card", -1); drawVerdicts(shownRows()); drawMemory(); });
  on("card", "input", () => { followCard("card", "my-card", 1); drawVerdicts(shownRows()); drawMemory(); });
  on("margin", "input", () => drawVerdicts(shownRows()));
  document.addEventListener("change", writeAddress);
  on("sort", "change", () => drawTable(shownRows()));
  on("copy-latex", "click", copyLatex);
  for (const id of ["learning-group", "learning-quantity"]) on(id, "change", () => drawLearning(shownRows()));
  on("classes-group", "change", () => drawClasses(shownRows()));
  for (const id of ["curves-group", "curves-row", "curves-kind"]) on(id, "change", () => drawScoreCurves(shownRows()));
  on("classes-run", "change", drawConfusion);
  for (const event of ["focus", "pointerdown"]) on("record-choice", event, offerAllRecords);
  on("record-choice", "change", () => { location.hash = recordHash(byId("record-choice").value); });
  window.addEventListener("hashchange", () => followHash(true));
  followHash(true);
  watchWidths();
  let width = window.innerWidth; // a phone changes its height when it hides the address bar
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) drawAll();
    width = window.innerWidth;
  });
}

start();

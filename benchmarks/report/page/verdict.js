"use strict";
// What to use, by place, for my card and the AUC that I would give up: the sentences that bench.py advise prints. All
// statistics and their words come with the data; here they are only compared with what the sliders say.

const FEW_VERDICTS = 3; // more are closed, a line each
const CARDS_GB = [4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 141, 192]; // sold as GB, and hold about as many GiB
const ADVICE = DATA.advice;
const GIB = 2 ** 30;

/** What was asked for: the GB of a card and the number of a margin, each null where nothing was. */
function limits() {
  const [card, margin] = ["my-card", "margin"].map((id) => Number(byId(id).value));
  return { card: card ? CARDS_GB[card - 1] : null, margin: margin ? margin - 1 : null };
}

function makeVerdictControls() {
  makeRange("my-card", ["any", ...CARDS_GB], "any");
  makeRange("margin", ["none", ...ADVICE.margins], "none");
}

/** The GB of a card with the names of those that are sold with them. */
function cardText(card) {
  const names = ADVICE.cards[card] ?? [];
  return `${card} GB${names.length ? ` (${names.join(", ")})` : ""}`;
}

const inPoints = (margin) => (100 * ADVICE.margins[margin]).toFixed(1);
const listed = (words) => words.slice(0, ADVICE.most_named).join(", ") + (words.length > ADVICE.most_named ? ` and ${words.length - ADVICE.most_named} more` : "");

/** Methods that may be used, those that also fit the card or may, and by each cost the cheapest of these. */
function choiceOf({ methods }, { card, margin }) {
  const fits = ({ needs }) => (card === null ? true : needs === null ? null : needs <= card * GIB);
  const candidates = methods.filter((method) => (margin === null ? method.alike : method.margin !== null && method.margin <= margin));
  const able = candidates.filter((method) => fits(method) !== false);
  const least = (among, cost) => among.reduce((a, b) => (b.ranks[cost] < a.ranks[cost] ? b : a)).label;
  const cheapest = {};
  for (const cost of Object.keys(ADVICE.costs)) {
    if (able.length && able.every(({ ranks }) => ranks[cost] !== null)) cheapest[cost] = least(able, cost);
  }
  const lean = able.filter(({ ranks }) => ranks.memory !== null);
  if (new Set(lean.map(({ source }) => source)).size === 1) cheapest.memory = least(lean, "memory");
  return { candidates, others: methods.filter((method) => !candidates.includes(method)), able, cheapest, fits };
}

/** The answer in a few words, as long as no card and no margin are asked for as bench.py run says it. */
function shortOf(place, asked) {
  if (place.best === null) return "Nothing to choose from";
  const { able, cheapest } = choiceOf(place, asked);
  if (!able.length) return "Nothing keeps to this";
  const chosen = cheapest.memory ?? (able.length === 1 ? able[0].label : `${able.length} methods alike`);
  return forbidsOf(place, asked).length ? `No conclusion yet; ${chosen} as it stands` : `Use ${chosen}`;
}

const forbidsOf = ({ forbids, forbids_margin }, { margin }) => (margin !== null && forbids_margin) || forbids;

/** The sentences of a place, word for word those of bench.py advise. */
function sentencesOf(place, asked) {
  const { margin } = asked;
  const { candidates, others, able, cheapest, fits } = choiceOf(place, asked);
  const forbids = forbidsOf(place, asked);
  const answer = answerOf(place, asked, candidates, able, cheapest.memory);
  const said = forbids.length ? [`No conclusion yet: ${forbids.join("; ")}.`, `As it stands: ${answer[0].toLowerCase()}${answer.slice(1)}`] : [answer];
  if (candidates.length > 1) {
    const costs = Map.groupBy(Object.keys(ADVICE.costs).filter((cost) => cost in cheapest), (cost) => cheapest[cost]);
    for (const [label, own] of costs) said.push(`${label}, of these: ${own.map((cost) => ADVICE.costs[cost]).join(", ")}.`);
  }
  const list = (what, methods, words) => { if (methods.length) said.push(`${what}: ${listed(methods.map(words))}.`); };
  list(margin === null ? "Ruled out" : `Not shown to be within ${inPoints(margin)} of it`, others,
    ({ label, auc, why, why_margin }) => `${label} ${auc}${margin === null ? why : why_margin}`);
  list("Over the limits", candidates.filter((method) => fits(method) === false), ({ label }) => label);
  list("Not known to keep to the limits, for want of memory or time", candidates.filter((method) => fits(method) === null), ({ label }) => label);
  if (place.left_out) said.push(place.left_out);
  const next = (place.next.find(([label]) => label === cheapest.memory) ?? place.next[0])?.[1];
  if (next) said.push(next);
  return said;
}

function answerOf(place, { margin }, candidates, able, choice) {
  if (place.best === null) return "Nothing to choose from: no method finished all its seeds.";
  if (!candidates.length) return `No method is shown to be within ${inPoints(margin)} of full fine-tuning.`;
  if (!able.length) return "None of the methods to choose from keeps to the limits.";
  const among = margin === null ? `not told apart from the best, ${place.best}` : `shown to lie no more than ${inPoints(margin)} below full fine-tuning`;
  const memory = ({ memory: words }) => words;
  if (able.length === 1) {
    const [only] = able;
    const what = margin !== null || only.label !== place.best ? `the only method ${among}` : "the best";
    return `Use ${only.label} (AUC ${only.auc}${only.interval}): ${what}${memory(only)}.`;
  }
  const named = listed(able.map(({ label, auc, interval }) => `${label} ${auc}${interval}`));
  const chosen = able.find(({ label }) => label === choice);
  if (!chosen) return `${able.length} methods are ${among}: ${named}. Their memory is not known alike, so none is called leanest.`;
  return `Use ${chosen.label}: of ${able.length} methods ${among}, it takes the least memory${memory(chosen)}. AUC: ${named}.`;
}

const placeKey = ({ group: place, resolution }) => `verdict ${DATA.groups[place].dataset}, ${resolution} px, ${DATA.groups[place].block}`;

function drawVerdicts(rows) {
  const asked = limits();
  const { card, margin } = asked;
  const say = (id, text) => {
    byId(`${id}-size`).textContent = text;
    byId(id).setAttribute("aria-valuetext", text);
  };
  say("my-card", card === null ? "any card" : cardText(card));
  say("margin", margin === null ? "not asked: what is not told apart from the best" : `up to ${inPoints(margin)} points below full fine-tuning`);
  byId("advise").textContent = ["python bench.py advise", card === null ? "" : `--gpu-memory ${card}GB`, margin === null ? "" : `--margin ${ADVICE.margins[margin]}`].filter(Boolean).join(" ");
  byId("not-equal").hidden = margin !== null;
  const places = new Set(rows.map((row) => `${row.group}/${row.resolution}`));
  const shown = ADVICE.places.filter(({ group: place, resolution }) => places.has(`${place}/${resolution}`));
  showEmpty("verdicts", DATA.rows.length ? (rows.length ? "" : NO_MATCH) : NO_RUNS, byId("verdicts"));
  byId("verdicts").replaceChildren(...shown.map((place) => {
    const lines = sentencesOf(place, asked).map((sentence) => make("li", {}, sentence));
    return panel(placeKey(place), shown.length <= FEW_VERDICTS,
      make("summary", {}, make("strong", {}, shortOf(place, asked)), ` · ${place.heading}`), make("ul", {}, ...lines));
  }));
}

"use strict";
// Test images that methods get wrong. Only pages that were asked for images have this script.

const [WRONG] = DATA.wrong;
const FIRST_SAID = 8; // methods whose answers stand below an image, unfolded

const placeText = ({ dataset, resolution, block, finding }) => `${dataset}, ${resolution} px · ${block}${finding === null ? "" : ` · ${finding}`}`;

function drawWrong() {
  const places = WRONG.places.map((place, value) => ({ place, value, text: placeText(place) }))
    .filter(({ place }) => ["dataset", "resolution", "block"].every((name) => ["", String(place[name])].includes(byId(`filter-${name}`).value)));
  fill(byId("wrong-place"), places);
  const place = places.length ? WRONG.places[byId("wrong-place").value] : null;
  const methods = place ? place.methods.map((label, value) => ({ value, text: `what ${label} gets wrong`, key: label })) : [];
  const several = methods.length > 1 ? [{ value: "most", text: "what most methods get wrong" }, { value: "differ", text: "where methods differ most" }] : [];
  fill(byId("wrong-order"), place ? [...several, ...methods] : []);
  const shown = place ? place.orders[byId("wrong-order").value].map((number) => place.entries[number]) : [];
  byId("wrong-images").replaceChildren(...shown.map((entry) => wrongFigure(place, entry)));
  showEmpty("wrong", !place ? NO_MATCH : shown.length ? "" : "None: every test image is called right here.", byId("wrong-images"));
}

function wrongFigure(place, { number, image, truth, called, probability }) {
  const order = byId("wrong-order").value;
  const isFirst = (label, i) => String(i) === order;
  const answers = place.methods.map((label, i) => make("li", {}, `${called[i] === truth ? "✓" : "✗"} ${label}: ${place.answers[called[i]]} (truth ${percent(probability[i])} %)`));
  const own = answers.filter(isFirst);
  const others = answers.filter((answer, i) => !isFirst(answer, i));
  const list = (items) => make("ul", {}, ...items);
  const rest = own.length + others.length > FIRST_SAID
    ? make("details", {}, make("summary", {}, plural(others.length, own.length ? "other method" : "method")), list(others)) : list(others);
  const picture = image === null ? make("p", { className: "note" }, "This file cannot be read.")
    : make("img", { src: WRONG.images[image], alt: `Test image ${number}`, loading: "lazy" });
  return make("figure", {}, picture, make("figcaption", {}, make("strong", {}, `Image ${number}: ${place.answers[truth]}`), list(own), rest));
}

byId("records").before(make("section", { id: "wrong" }, make("h2", {}, "Images that methods get wrong"),
  make("p", { className: "warning" }, "Images of the dataset are part of this file. Whoever has it has them."),
  make("div", { className: "controls" },
    make("label", { className: "wide" }, "Dataset, protocol and resolution ", make("select", { id: "wrong-place" })),
    make("label", { className: "wide" }, "Show ", make("select", { id: "wrong-order" }))),
  make("p", { className: "empty", id: "wrong-empty" }), make("div", { id: "wrong-images" }), make("p", { className: "caption" }, WRONG.said)));
document.querySelector("nav a[href='#records']").before(make("a", { href: "#wrong" }, "Images that methods get wrong"));
for (const id of ["wrong-place", "wrong-order"]) byId(id).addEventListener("change", drawWrong);
FURTHER.push(drawWrong);

"use strict";
// Curves are switched on and off by the boxes below them.
for (const chart of document.querySelectorAll(".chart")) {
  const boxes = chart.querySelectorAll("input[data-key]");
  const show = () => {
    for (const box of boxes) {
      for (const line of chart.querySelectorAll(`polyline[data-key="${box.dataset.key}"]`)) {
        line.classList.toggle("off", !box.checked);
      }
    }
  };
  const switches = chart.querySelector(".switches");
  switches.hidden = false;
  for (const button of switches.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      for (const box of boxes) box.checked = button.dataset.all === "true";
      show();
    });
  }
  chart.addEventListener("change", show);
  show();
}
// A cell leads to its runs, which are folded away.
const unfold = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let folded = target.closest("details"); folded; folded = folded.parentElement.closest("details")) folded.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();
// Escape takes a cell's facts away, any other key or movement brings them back.
addEventListener("keydown", (event) => document.body.classList.toggle("quiet", event.key === "Escape"));
addEventListener("pointermove", () => document.body.classList.remove("quiet"));

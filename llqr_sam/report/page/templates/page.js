"use strict";
// The boxes below a chart switch its curves on and off.
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
// A link to a cell's runs unfolds them.
const unfold = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let folded = target.closest("details"); folded; folded = folded.parentElement.closest("details")) folded.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();
// Escape hides a cell's facts; any other key or movement shows them again.
addEventListener("keydown", (event) => document.body.classList.toggle("quiet", event.key === "Escape"));
addEventListener("pointermove", () => document.body.classList.remove("quiet"));

// On a narrow screen the sections are folded, and a link unfolds its target.
const folds = document.querySelectorAll("details.fold");
if (matchMedia("screen and (max-width: 52rem)").matches) folds.forEach((fold) => { fold.open = false; });
const unfold = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  target.querySelectorAll(":scope > details.fold").forEach((fold) => { fold.open = true; });
  for (let folded = target.closest("details"); folded; folded = folded.parentElement.closest("details")) folded.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", unfold);

// On paper every section is open and every curve drawn, in ink.
const before = new Map();
addEventListener("beforeprint", () => {
  folds.forEach((fold) => { before.set(fold, fold.open); fold.open = true; });
  printing = true;
  drawn.forEach((chart) => { chart.done = true; chart.draw(); });
});
addEventListener("afterprint", () => {
  printing = false;
  redraw();
  before.forEach((open, fold) => { fold.open = open; });
});

// While runs go on the page loads itself again, and keeps what was unfolded.
const seconds = Number(document.body.dataset.reload);
const all = [...document.querySelectorAll("details")];
if (seconds) {
  const kept = JSON.parse(sessionStorage.getItem("open") || "null");
  if (kept && kept.length === all.length) all.forEach((each, number) => { each.open = kept[number]; });
  const box = document.getElementById("reload");
  box.checked = sessionStorage.getItem("reload") !== "false";
  box.addEventListener("change", () => sessionStorage.setItem("reload", box.checked));
  addEventListener("pagehide", () => sessionStorage.setItem("open", JSON.stringify(all.map((each) => each.open))));
  setInterval(() => { if (box.checked) location.reload(); }, 1000 * seconds);
}
unfold();

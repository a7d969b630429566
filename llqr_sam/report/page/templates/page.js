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

unfold();

// On paper the tables and answers are open and every curve is drawn, in ink.
const before = new Map();
addEventListener("beforeprint", () => {
  document.querySelectorAll("details.fold, #answer details").forEach((fold) => { before.set(fold, fold.open); fold.open = true; });
  printing = true;
  drawn.forEach((chart) => { chart.done = true; chart.draw(); });
});
addEventListener("afterprint", () => {
  printing = false;
  redraw();
  before.forEach((open, fold) => { fold.open = open; });
});

// While the page is written again it loads itself again, and keeps what was unfolded and chosen.
const seconds = Number(document.body.dataset.reload);
const named = (fold) => fold.id || fold.firstElementChild.textContent.replace(/\d[\d.:]*/g, "").trim();  // without its numbers
const choices = [...document.querySelectorAll("select")];
if (seconds) {
  const kept = JSON.parse(sessionStorage.getItem("kept") || "{}");
  document.querySelectorAll("details").forEach((fold) => { fold.open = kept[named(fold)] ?? fold.open; });
  choices.forEach((choice, number) => { choice.value = kept[`choice ${number}`] ?? choice.value; });
  const box = document.getElementById("reload");
  box.checked = sessionStorage.getItem("reload") !== "false";
  box.addEventListener("change", () => sessionStorage.setItem("reload", box.checked));
  addEventListener("pagehide", () => {
    const folds = [...document.querySelectorAll("details")].map((fold) => [named(fold), fold.open]);
    const chosen = choices.map((choice, number) => [`choice ${number}`, choice.value]);
    sessionStorage.setItem("kept", JSON.stringify(Object.fromEntries([...folds, ...chosen])));
  });
  setInterval(() => { if (box.checked) location.reload(); }, 1000 * seconds);
}

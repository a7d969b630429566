"use strict";
// Curves by uPlot: the score against epochs and against minutes, with bands for two methods, and each method alone.
const HEIGHT = 280, SMALL = 150;
const ON_PAPER = 330;  // pixels across a plot: two beside each other on a page
let printing = false;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const inkOf = (line) => (line.ink === "ink" ? (printing ? "#000" : css("--ink")) : line.ink);
const faint = (hex, alpha) => hex + Math.round(255 * alpha).toString(16).padStart(2, "0");

// A line's points that have a value, as uPlot takes them: x, mean, lowest, highest.
const pointsOf = (line, x, measure) => {
  const rows = [line[x], ...line[measure]];
  const known = rows[1].map((value, at) => (value === null ? -1 : at)).filter((at) => at >= 0);
  return rows.map((row) => known.map((at) => row[at]));
};

// Limits of y: the first tenth of training, where all is steep, does not stretch it.
const limitsOf = (lines, measure) => {
  const late = lines.flatMap((line) => line[measure].flatMap((row) => row.slice(Math.floor(row.length / 10))));
  const values = late.filter((value) => value !== null);
  const low = Math.min(...values), high = Math.max(...values), margin = 0.05 * (high - low) || 1;
  return [low - margin, high + margin];
};

const axesOf = (xLabel, yLabel, size) => {
  const common = {stroke: () => (printing ? "#444" : css("--faint")), font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif",
    grid: {stroke: () => (printing ? "#ccc" : css("--line")), width: 1}, ticks: {show: false}};
  return [{...common, label: xLabel, labelSize: 20, size: 30}, {...common, label: yLabel, labelSize: yLabel ? 20 : 0, size: size}];
};

// One plot: the lines in order, those in `banded` with their bands, those in `behind` faint.
const plot = (place, lines, banded, options) => {
  const tables = lines.map((line) => pointsOf(line, options.x, options.measure));
  const series = [{label: options.x, value: (_, x) => (x === null ? "–" : `${+x.toFixed(2)}`)}], bands = [];
  lines.forEach((line, number) => {
    const shown = banded.includes(number), ink = inkOf(line), at = series.length;
    const common = {spanGaps: true, points: {show: false}};
    series.push({...common, label: line.name, stroke: () => (shown ? inkOf(line) : faint(options.grey ? "#888888" : line.ink === "ink" ? "#888888" : ink, 0.55)),
      width: shown ? 2.5 : 1.2, dash: line.dash, value: (_, y) => (y === null || y === undefined ? "–" : `${y}`)});
    for (const _ of [1, 2]) series.push({...common, label: "", stroke: "transparent", width: 0, class: "edge"});
    if (shown) bands.push({series: [at + 2, at + 1], fill: faint(line.ink === "ink" ? "#888888" : ink, 0.22)});
  });
  const data = uPlot.join(tables);
  return new uPlot({
    width: printing ? ON_PAPER : Math.max(120, place.clientWidth), height: options.height, series, bands,
    scales: {x: {time: false}, y: {range: limitsOf(options.all, options.measure)}},
    axes: axesOf(options.xLabel, options.yLabel, 44), legend: {show: options.legend},
    cursor: {show: options.legend, drag: {x: true, y: false}}, padding: [8, 8, 0, 0],
  }, data, place);
};

// The CSV of a figure: what its curves show, a line for each method and evaluation.
const csvOf = (chart, measure) => {
  const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
  const lines = [`network,method,seeds,epoch,minutes,${measure}_mean,${measure}_lowest,${measure}_highest`];
  for (const line of chart.lines) {
    line.epoch.forEach((epoch, at) => {
      const values = line[measure].map((row) => row[at] ?? "");
      lines.push([quoted(chart.title), quoted(line.name.replace(/, n = \d+$/, "")), line.seeds, epoch, line.minutes[at], ...values].join(","));
    });
  }
  return lines.join("\n") + "\n";
};

const download = (name, text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
};

const drawn = [];
for (const figure of document.querySelectorAll("figure.chart")) {
  const chart = JSON.parse(figure.querySelector("script").textContent);
  const role = (name) => figure.querySelector(`[data-role="${name}"]`);
  const panels = figure.querySelector(".panels"), each = figure.querySelector(".each"), small = figure.querySelector(".small");
  const frame = (parent, label) => {
    const place = document.createElement("div");
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", label);
    parent.append(place);
    return place;
  };
  const draw = () => {
    const measure = role("measure").value, name = measure === "score" ? chart.score_label : "test loss";
    const banded = [Number(role("first").value), Number(role("second").value)];
    panels.replaceChildren();
    const places = ["epoch", "minutes"].map((x) => [x, frame(panels, `${chart.title}: ${name} against ${x}; the numbers are in the CSV`)]);
    for (const [x, place] of places) {
      const label = x === "epoch" ? "epoch" : "minutes of training, mean over seeds";
      plot(place, chart.lines, banded, {x, measure, xLabel: label, yLabel: x === "epoch" ? name : "", height: HEIGHT, legend: x === "epoch", all: chart.lines});
    }
    if (each.open) drawEach(measure, name);
  };
  const drawEach = (measure, name) => {
    small.replaceChildren();
    const base = chart.lines[chart.pair[1]];
    const parts = chart.lines.map((line) => {
      const part = document.createElement("div"), head = document.createElement("p");
      head.textContent = line.name;
      part.append(head);
      small.append(part);
      return [line, part];
    });
    for (const [line, part] of parts) {
      const lines = line === base ? [line] : [base, line];
      plot(frame(part, `${line.name}: ${name} against epoch`), lines, [lines.length - 1],
        {x: "epoch", measure, xLabel: "", yLabel: "", height: SMALL, legend: false, grey: true, all: chart.lines});
    }
  };
  figure.querySelector(".controls").hidden = false;
  figure.addEventListener("change", draw);
  each.addEventListener("toggle", draw);
  role("csv").addEventListener("click", () => download(`${chart.title.replace(/[^A-Za-z0-9]+/g, "_")}.csv`, csvOf(chart, role("measure").value)));
  drawn.push({figure, draw, done: false});
}
// A chart is drawn when it comes near the screen: a page with many opens at once.
const redraw = () => drawn.filter((chart) => chart.done).forEach((chart) => chart.draw());
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((entry) => entry.isIntersecting)) {
    const chart = drawn.find((chart) => chart.figure === entry.target);
    if (!chart.done) {
      chart.done = true;
      chart.draw();
    }
  }
}, {rootMargin: "600px"});
drawn.forEach((chart) => watcher.observe(chart.figure));
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) {
    width = innerWidth;
    redraw();
  }
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

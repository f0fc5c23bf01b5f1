// The plots. Each has its numbers in a table as well, for who cannot see it.

const MEANINGS = [
  [/^(kept|done|packed|busy|passed)$/, "--good"],
  [/^(rejected|left out|left_out|blocked)$/, "--middling"],
  [/^(failed|failures|error|errors|missing)$/, "--poor"],
  [/^(starved|waiting|idle)$/, "--absent"],
];
const PALETTE = ["--series-1", "--series-2", "--series-3", "--series-4", "--series-5", "--series-6"];

function showPlots(plots) {
  if (!plots.length) return;
  const section = document.getElementById("plots");
  section.hidden = false;
  const figures = plots.map(plotFigure);
  section.append(element("h2", { id: "plots-title" }, "Plots"), element("div", { class: "plots" }, figures));
  let drawn = figures.map((figure, index) => draw(figure.querySelector("canvas"), plots[index]));
  const again = () => {
    drawn.forEach((chart) => chart.destroy());
    drawn = figures.map((figure, index) => draw(figure.querySelector("canvas"), plots[index]));
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  onPrint((isPrinting) => {
    document.documentElement.toggleAttribute("data-print", isPrinting); // paper is white
    again();
  });
}

function onPrint(change) {
  window.addEventListener("beforeprint", () => change(true));
  window.addEventListener("afterprint", () => change(false));
}

function plotFigure(plot) {
  const box = element("div", { class: "canvas" });
  if (lies(plot)) box.style.minHeight = `${100 + 22 * plot.labels.length}px`;
  const about = `${plot.title}: ${plot.y_label} by ${plot.x_label}. The numbers are in the table below the plot.`;
  box.append(element("canvas", { role: "img", "aria-label": about }));
  return element(
    "figure",
    { class: "plot panel", "data-plot": plot.id },
    element(
      "figcaption",
      {},
      element("h3", {}, plot.title),
      plot.note ? element("p", { class: "muted" }, plot.note) : null,
    ),
    box,
    element(
      "details",
      {},
      element("summary", {}, "Numbers"),
      element("div", { class: "scroll", tabindex: "0" }, numbersTable(plot)),
    ),
  );
}

function numbersTable(plot) {
  const head = [plot.x_label || "", ...plot.series.map((series) => series.name)];
  const rows = plot.labels.map((label, index) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, String(label)),
      plot.series.map((series) => element("td", {}, number(series.values[index]) ?? DASH)),
    ),
  );
  return element(
    "table",
    {},
    element("caption", { class: "offscreen" }, plot.title),
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        head.map((name) => element("th", { scope: "col" }, name)),
      ),
    ),
    element("tbody", {}, rows),
  );
}

function draw(canvas, plot) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const isLine = plot.kind === "line";
  return new Chart(canvas, {
    type: isLine ? "line" : "bar",
    data: isLine ? lineOf(plot, color) : barsOf(plot, color),
    options: optionsOf(plot, color),
  });
}

function seriesColor(plot, index, color) {
  const meant = MEANINGS.find(([pattern]) => pattern.test(plot.series[index].name));
  const isPoor = plot.series.length === 1 && plot.id === "failures";
  return color(isPoor ? "--poor" : meant ? meant[1] : PALETTE[index % PALETTE.length]);
}

function barsOf(plot, color) {
  const datasets = plot.series.map((series, index) => ({
    label: series.name,
    data: series.values,
    backgroundColor: seriesColor(plot, index, color),
    borderRadius: plot.kind === "stacked" ? 0 : 2,
    maxBarThickness: 36,
    categoryPercentage: 0.86,
    barPercentage: 0.94,
  }));
  return { labels: plot.labels.map(String), datasets };
}

function lineOf(plot, color) {
  const datasets = plot.series.map((series, index) => ({
    label: series.name,
    data: series.values.map((y, at) => (hasNumbers(plot) ? { x: Number(plot.labels[at]), y } : y)),
    borderColor: seriesColor(plot, index, color),
    backgroundColor: seriesColor(plot, index, color),
    borderWidth: 2,
    pointRadius: plot.labels.length > 30 ? 0 : 2,
    pointHitRadius: 8,
    tension: 0,
  }));
  return { labels: plot.labels.map(String), datasets };
}

/** Whether the places along x are numbers, to be set apart by as much as they differ. */
function hasNumbers(plot) {
  return plot.labels.every((label) => String(label).trim() !== "" && Number.isFinite(Number(label)));
}

/** Names that have no room side by side stand beside bars that lie. Ranges of numbers always go from left to right. */
function lies(plot) {
  const names = plot.labels.map(String);
  const width = Math.max(...names.map((name) => name.length)) * names.length;
  return plot.kind !== "line" && names.length <= 20 && width > 60 && !names.every((name) => /^\d/.test(name));
}

function optionsOf(plot, color) {
  const [muted, line] = [color("--muted"), color("--line")];
  const isLying = lies(plot),
    isStacked = plot.kind === "stacked";
  const isWhole = plot.series.every((series) =>
    series.values.every((value) => !isKnown(value) || Number.isInteger(value)),
  );
  const scale = (text, isValue) => ({
    stacked: isStacked,
    beginAtZero: true,
    title: { display: Boolean(text), text, color: muted, font: { size: 11 } },
    grid: { display: isValue, color: line },
    border: { color: line },
    ticks: {
      color: muted,
      font: { size: 11 },
      maxRotation: isLying ? 0 : 45,
      autoSkip: !isLying || isValue,
      precision: isWhole ? 0 : undefined,
    },
  });
  const names = scale(plot.x_label, false),
    values = scale(plot.y_label, true);
  if (plot.kind === "line" && hasNumbers(plot)) names.type = "linear";
  return {
    animation: false,
    responsive: true,
    maintainAspectRatio: false,
    indexAxis: isLying ? "y" : "x",
    interaction: { mode: "index", intersect: false, axis: isLying ? "y" : "x" },
    scales: isLying ? { x: values, y: names } : { x: names, y: values },
    plugins: {
      legend: {
        display: plot.series.length > 1,
        position: "bottom",
        labels: { color: muted, boxWidth: 10, boxHeight: 10, font: { size: 11 } },
      },
      tooltip: { callbacks: { label: (item) => `${item.dataset.label}: ${number(item.parsed[isLying ? "x" : "y"])}` } },
    },
  };
}

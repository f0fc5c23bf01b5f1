// The head of the page: which run this is, how it ended, and its figures.

const STATES = {
  complete: ["Complete", "ok"],
  incomplete: ["Incomplete", "warn"],
  refused: ["Refused", "bad"],
  running: ["Still running", "busy"],
};

function showHead(report) {
  const run = report.run;
  const [state, look] = STATES[run.state] ?? [run.state, "warn"];
  document.getElementById("top").append(
    element("div", { class: "title" }, element("h1", {}, report.title), badge(state, look)),
    element(
      "p",
      { class: "muted facts" },
      headFacts(run).map((fact) => element("span", {}, fact)),
    ),
    element("dl", { class: "paths" }, paths(run)),
    element("nav", { "aria-label": "Parts of the report", id: "parts" }),
  );
}

function badge(text, look) {
  return element("span", { class: `badge ${look}` }, text);
}

function headFacts(run) {
  const took_s = isKnown(run.started) && isKnown(run.ended) ? run.ended - run.started : null;
  return [
    isKnown(run.started) ? ["Started ", moment(run.started)] : null,
    isKnown(run.ended) ? ["Ended ", moment(run.ended)] : null,
    took_s === null ? null : [`Took ${duration(took_s)}`],
    [`clipmill ${run.code_version}`],
    [`On ${run.cluster}`],
    [`Annotations ${run.annotation_version}`],
    run.config_hash ? [`Config ${run.config_hash}`] : null,
  ].filter((fact) => fact !== null);
}

function paths(run) {
  const named = [
    ["Run folder", run.run_dir],
    ["Clips", run.clips_path],
    ["Dataset", run.dataset_path],
  ];
  return named
    .filter(([, path]) => path)
    .map(([name, path]) => element("div", {}, element("dt", {}, name), element("dd", {}, path)));
}

/** One link for each part that is there; the address is left to the filters. */
function showParts() {
  const parts = [
    ["plots", "Plots"],
    ["clips", "Clips"],
    ["failures", "Failures"],
  ];
  const go = (event, id) => {
    event.preventDefault();
    document.getElementById(id).scrollIntoView();
  };
  const links = parts
    .filter(([id]) => !document.getElementById(id).hidden)
    .map(([id, name]) => element("a", { href: `#${id}`, onclick: (event) => go(event, id) }, name));
  document.getElementById("parts").append(...links);
  document.querySelector(".skip").addEventListener("click", (event) => {
    go(event, "clips");
    document.getElementById("clips").focus({ preventScroll: true });
  });
}

function showFigures(figures) {
  const tiles = mainTiles(figures).filter((tile) => tile !== null);
  const small = smallFigures(figures).filter(([, value]) => isKnown(value));
  const entries = small.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  document
    .getElementById("figures")
    .append(
      element("div", { class: "tiles" }, tiles),
      entries.length ? element("dl", { class: "small-figures" }, entries) : element("span"),
    );
}

function mainTiles(f) {
  return [
    videosTile(f),
    clipsTile(f),
    tile("Footage kept", duration(f.clip_s), [isKnown(f.source_s) ? `of ${duration(f.source_s)} read` : null]),
    windowsTile(f),
    tile("Video-hours per GPU-hour", number(f.source_s_per_gpu_s), [
      isKnown(f.gpu_s) ? `${duration(f.gpu_s)} of GPU time` : null,
    ]),
    tile("Wall time", duration(f.wall_s), [isKnown(f.worker_s) ? `${duration(f.worker_s)} of workers` : null]),
  ];
}

/** A figure with what it is made of; null where it is not known. */
function tile(name, value, notes, ...more) {
  if (!isKnown(value)) return null;
  const said = notes.filter((note) => note !== null).map((note) => element("p", { class: "muted" }, note));
  return element(
    "div",
    { class: "tile" },
    element("h2", {}, name),
    element("p", { class: "figure" }, value),
    said,
    more,
  );
}

function videosTile(f) {
  const parts = [
    ["done", f.num_done, "ok"],
    ["failed", f.num_failed, "bad"],
    ["missing", f.num_missing, "warn"],
  ];
  const known = parts.filter(([, num]) => isKnown(num));
  const said = known
    .filter(([name]) => name !== "done")
    .map(([name, num]) => `${count(num)} ${name}`)
    .join(", ");
  const of = isKnown(f.num_videos) ? ` of ${count(f.num_videos)}` : "";
  return tile(
    "Videos done",
    isKnown(f.num_done) ? [count(f.num_done), element("small", {}, of)] : null,
    [said || null],
    shares(known),
  );
}

function clipsTile(f) {
  const rejected = Object.entries(f.num_rejected ?? {});
  const num_rejected = rejected.reduce((sum, [, num]) => sum + num, 0);
  const by = rejected
    .filter(([, num]) => num)
    .map(([name, num]) => `${count(num)} by ${words(name)}`)
    .join(", ");
  const said = num_rejected ? `${count(num_rejected)} rejected: ${by}` : "none rejected";
  return tile(
    "Clips kept",
    count(f.num_clips),
    [said],
    shares([
      ["kept", f.num_clips, "ok"],
      ["rejected", num_rejected, "warn"],
    ]),
  );
}

function windowsTile(f) {
  if (!isKnown(f.num_packed)) {
    return tile("Windows", count(f.num_windows), []);
  }
  return tile(
    "Windows in the dataset",
    count(f.num_packed),
    [isKnown(f.num_left_out) ? `${count(f.num_left_out)} left out` : null],
    shares([
      ["packed", f.num_packed, "ok"],
      ["left out", f.num_left_out ?? 0, "warn"],
    ]),
  );
}

/** A bar that shows how a whole is divided; the words beside it say the same. */
function shares(parts) {
  const there = parts.filter(([, num]) => num > 0);
  const bar = element("div", { class: "shares", "aria-hidden": "true" });
  for (const [name, num, look] of there) {
    const part = element("span", { class: look, title: `${count(num)} ${name}` });
    part.style.flexGrow = num;
    bar.append(part);
  }
  return there.length ? bar : null;
}

function smallFigures(f) {
  const captioners = Object.entries(f.caption_tokens_per_s ?? {});
  return [
    ...captioners.map(([name, rate]) => [`Caption tokens/s, ${name}`, number(rate)]),
    ["GPU busy", percent(f.gpu_busy)],
    ["CPU busy", percent(f.cpu_busy)],
    ["Time per video, p50", duration(f.video_p50_s)],
    ["Time per video, p99", duration(f.video_p99_s)],
    ["Video-hours per worker-hour", number(f.source_s_per_worker_s)],
    ["Retries", count(f.num_retries)],
    ["Read", bytes(f.source_bytes)],
    ["Clips", bytes(f.clip_bytes)],
    ["Files in the output", count(f.num_files)],
    ["Decoded per source frame", f.decoded_per_source_frame?.toFixed(3)],
  ];
}

// Reads the report out of the page and shows it.

const report = JSON.parse(document.getElementById("document").textContent);
showHead(report);
showFigures(report.figures ?? {});
showPlots(report.plots ?? []);
new Gallery(report.clips ?? [], report.num_clips_sampled_from);
new Failures(report.failures ?? [], report.first_errors ?? [], report.figures?.num_failed ?? 0);
showParts();
document
  .getElementById("made")
  .append("Made ", moment(report.run.made) ?? "", ` by clipmill ${report.run.code_version}.`);
document.addEventListener("keydown", (event) => {
  const field = document.querySelector("#clips input[type=search]");
  if (event.key !== "/" || isTyping(event) || field === null) return;
  event.preventDefault();
  field.focus();
  field.select();
});

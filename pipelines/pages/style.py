"""How the page looks: one style sheet for light and dark, phone and desktop."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --ground:#ffffff; --card:#f6f7f9; --ink:#1a2027; --soft:#55606c; --line:#d9dee4;
  --accent:#1d65b3; --gain:31,143,92; --loss:196,60,57; --warn:#8a5200; --warn-ground:#fff6e5; --warn-line:#eecb8d; }
@media (prefers-color-scheme: dark) { :root { --ground:#11161d; --card:#181f28; --ink:#e7ebf0; --soft:#a3afbc;
  --line:#2d3743; --accent:#74b0f2; --warn:#f3c675; --warn-ground:#2a2215; --warn-line:#5d4920; } }
* { box-sizing:border-box; }
html { -webkit-text-size-adjust:100%; }
body { margin:0; background:var(--ground); color:var(--ink); 
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif; }
.page { max-width:1180px; margin:0 auto; padding:28px 20px 60px; }
header h1 { font-size:1.7rem; line-height:1.2; margin:0 0 4px; overflow-wrap:anywhere; }
h2 { font-size:1.2rem; margin:44px 0 4px; scroll-margin-top:12px; overflow-wrap:anywhere; }
h3 { font-size:1rem; margin:26px 0 2px; }
p { margin:4px 0 10px; max-width:88ch; overflow-wrap:anywhere; }
.soft, figcaption, .note { color:var(--soft); font-size:.875rem; }
a { color:var(--accent); }
nav { display:flex; flex-wrap:wrap; gap:4px 16px; margin:16px 0 0; font-size:.9rem; }
nav a { padding:4px 0; }
dl.basis { display:grid; grid-template-columns:max-content 1fr; gap:2px 14px; margin:16px 0; font-size:.9rem; }
dl.basis dt { color:var(--soft); }
dl.basis dd { margin:0; overflow-wrap:anywhere; }
.warnings { border:1px solid var(--warn-line); background:var(--warn-ground); border-radius:10px; padding:10px 16px;
  margin-top:18px; }
.warnings h2 { margin:0; font-size:1rem; color:var(--warn); }
.warnings ul { margin:4px 0 2px; padding-left:20px; overflow-wrap:anywhere; font-size:.93rem; }
.cards { display:grid; grid-template-columns:repeat(5,1fr); gap:10px; margin:14px 0 6px; padding:0; }
.cards div { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:10px 12px; }
.cards dt { color:var(--soft); font-size:.8rem; }
.cards dd { margin:0; font-size:1.25rem; font-weight:600; font-variant-numeric:tabular-nums; }
.cards small { display:block; font-size:.78rem; font-weight:400; color:var(--soft); }
figure { margin:10px 0 4px; min-width:0; }
figcaption { margin:2px 0 0; }
.two { display:grid; grid-template-columns:1fr 1fr; gap:0 28px; }
.two > * { min-width:0; }
.legend { display:flex; flex-wrap:wrap; gap:2px 16px; list-style:none; margin:2px 0 0; padding:0; font-size:.85rem; }
.legend i { display:inline-block; width:14px; height:4px; border-radius:2px; margin-right:6px; vertical-align:middle; }
.legend i.box { height:12px; border-radius:3px; }
.switch { display:inline-flex; gap:6px; align-items:center; font-size:.875rem; min-height:32px; cursor:pointer; }
input[type=checkbox] { width:18px; height:18px; accent-color:var(--accent); }
.filter { display:flex; flex-wrap:wrap; gap:8px 14px; align-items:center; margin:8px 0; }
.filter input { font:inherit; color:inherit; background:var(--card); border:1px solid var(--line); border-radius:8px;
  padding:6px 10px; min-width:0; width:220px; }
:focus-visible { outline:2px solid var(--accent); outline-offset:2px; }
.scroll { overflow:auto; max-height:560px; border:1px solid var(--line); border-radius:10px; margin:8px 0; }
.scroll.whole { max-height:none; }
table { border-collapse:separate; border-spacing:0; font-size:.85rem; font-variant-numeric:tabular-nums; width:100%; }
th, td { padding:5px 10px; text-align:right; white-space:nowrap; border-bottom:1px solid var(--line); }
tbody tr:last-child > * { border-bottom:0; }
thead th { position:sticky; top:0; z-index:2; background:var(--card); color:var(--soft); font-weight:600; }
tbody th { text-align:left; font-weight:600; position:sticky; left:0; background:var(--ground); max-width:44vw;
  overflow:hidden; text-overflow:ellipsis; }
thead th:first-child { text-align:left; left:0; z-index:3; }
thead button { all:unset; cursor:pointer; padding:4px 0; }
thead button:focus-visible { outline:2px solid var(--accent); outline-offset:2px; }
th[aria-sort=ascending] button::after { content:" ↑"; }
th[aria-sort=descending] button::after { content:" ↓"; }
.figures tbody tr:hover > * { background:var(--card); }
td.heat { text-align:center; }
td.gain { background:rgba(var(--gain),calc(var(--s)*.5)); }
td.loss { background:rgba(var(--loss),calc(var(--s)*.5)); }
td.total { font-weight:600; }
.months th, .months td { padding:5px 7px; }
.map { width:auto; }
.maps { display:flex; flex-wrap:wrap; gap:4px 20px; align-items:flex-start; }
.maps .scroll { max-width:100%; }
pre { overflow:auto; max-height:480px; background:var(--card); border:1px solid var(--line); border-radius:10px;
  padding:12px; font-size:.78rem; line-height:1.45; }
summary { cursor:pointer; min-height:32px; }
footer { margin-top:48px; border-top:1px solid var(--line); padding-top:12px; }
[hidden] { display:none !important; }
@media (max-width:720px) { .page { padding:18px 14px 40px; } header h1 { font-size:1.35rem; } .two { display:block; }
  .cards { grid-template-columns:1fr 1fr; } dl.basis { grid-template-columns:1fr; gap:0; }
  dl.basis dd { margin-bottom:6px; } }
@media print { nav, .filter, .switch { display:none; } .scroll { max-height:none; overflow:visible; } }
"""

SCRIPT = """
(function () {
  "use strict";
  function tint() {
    var css = getComputedStyle(document.documentElement);
    var ink = css.getPropertyValue("--ink").trim(), soft = css.getPropertyValue("--soft").trim();
    var rule = css.getPropertyValue("--line").trim();
    if (!window.Bokeh) return;
    Bokeh.documents.forEach(function (doc) {
      doc._all_models.forEach(function (model) {
        if (/Axis$/.test(model.type)) model.setv({axis_label_text_color: soft, major_label_text_color: soft,
          axis_line_color: rule, major_tick_line_color: rule});
        else if (model.type === "Grid") model.setv({grid_line_color: rule});
        else if (model.type === "PanTool" && matchMedia("(pointer: fine)").matches) model.active = true;
      });
    });
  }
  (function drawn() {
    if (window.Bokeh && Bokeh.documents.length) tint();
    else requestAnimationFrame(drawn);
  })();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tint);

  var log = document.getElementById("log");
  if (log) {
    var swap = function () {
      document.getElementById("equity-linear").hidden = log.checked;
      document.getElementById("equity-log").hidden = !log.checked;
    };
    log.addEventListener("change", swap);
    swap();
  }

  var table = document.getElementById("figures"), filter = document.getElementById("filter");
  var body = table.tBodies[0], heads = Array.from(table.tHead.rows[0].cells), shown = document.getElementById("shown");
  function key(row, at, numeric) {
    var cell = row.cells[at], text = at === 0 ? cell.textContent : cell.dataset.v;
    if (!numeric) return text;
    if (text === "") return NaN;
    var value = Number(text);
    return isNaN(value) ? text : value;
  }
  heads.forEach(function (head, at) {
    head.querySelector("button").addEventListener("click", function () {
      var numeric = head.dataset.kind === "number";
      var up = head.getAttribute("aria-sort") === "descending" || (!numeric && !head.hasAttribute("aria-sort"));
      heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      var rows = Array.from(body.rows).map(function (row) { return [key(row, at, numeric), row]; });
      rows.sort(function (a, b) {
        var first = a[0], second = b[0];
        var gone = (first !== first ? 1 : 0) - (second !== second ? 1 : 0);
        if (gone || (first !== first && second !== second)) return gone;
        return (first < second ? -1 : first > second ? 1 : 0) * (up ? 1 : -1);
      });
      rows.forEach(function (pair) { body.appendChild(pair[1]); });
    });
  });
  filter.addEventListener("input", function () {
    var wanted = filter.value.trim().toLowerCase(), n = 0;
    Array.from(body.rows).forEach(function (row) {
      row.hidden = row.cells[0].textContent.toLowerCase().indexOf(wanted) < 0;
      if (!row.hidden) n += 1;
    });
    shown.textContent = n + " of " + body.rows.length + " rows";
  });
})();
"""

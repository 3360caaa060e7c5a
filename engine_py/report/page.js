"use strict";
(function () {
  var data = JSON.parse(document.getElementById("data").textContent);
  function make(parent, name, text) {
    var node = document.createElement("div");
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  }
  function row(parent, name, text) {
    var line = make(parent);
    line.appendChild(document.createElement("span")).textContent = name;
    line.appendChild(document.createElement("span")).textContent = text;
  }
  function sums(text) {
    var sum = 0;
    return text.split(" ").map(function (part) { return sum += Number(part); });
  }
  function texts(text) {
    var before = "";
    return text.split(" ").map(function (part) { return before = part === "=" ? before : part; });
  }
  function time(n, unit) {
    var iso = new Date(n * unit * 1000).toISOString();
    return unit === 86400 ? iso.slice(0, 10) : iso.slice(0, 10) + " " + iso.slice(11, 16);
  }
  function grouped(text) {
    var parts = text.replace("-", "\u2212").split(".");
    parts[0] = parts[0].replace(/\B(?=(\d{3})+$)/g, ",");
    return parts.join(".");
  }
  addEventListener("beforeprint", function () {
    Array.prototype.forEach.call(document.querySelectorAll("details"), function (part) { part.open = true; });
  });
  Array.prototype.forEach.call(document.querySelectorAll(".plot"), function (plot) {
    var chart = data[plot.dataset.chart], at = -1, xs = sums(chart.x), times = sums(chart.t), last = xs.length - 1;
    var values = chart.s.map(function (s) { return texts(s.v); });
    var cursor = make(plot, "cursor"), tip = make(plot, "tip"), points = chart.s.map(function (s) { return make(plot, "point " + s.c); });
    tip.setAttribute("role", "status");
    function hide() {
      at = -1;
      cursor.hidden = tip.hidden = true;
      points.forEach(function (p) { p.hidden = true; });
    }
    function show(n) {
      at = Math.max(0, Math.min(last, n));
      var width = plot.clientWidth, x = xs[at] / 2000 * width, sum = 0;
      cursor.hidden = tip.hidden = false;
      cursor.style.left = x + "px";
      tip.textContent = "";
      tip.appendChild(document.createElement("b")).textContent = time(times[at], chart.u);
      chart.s.forEach(function (s, i) {
        var text = values[i][at], y = Number(text) / (chart.share ? 100 : 1);
        if (chart.stacked) y = sum += y;
        points[i].hidden = text === "";
        points[i].style.left = x + "px";
        points[i].style.top = chart.h * (chart.hi - y) / (chart.hi - chart.lo) + "px";
        if (text !== "") row(tip, s.n, grouped(text) + (chart.share ? " %" : ""));
      });
      if (chart.m[at]) make(tip, "", chart.m[at]);
      var left = x + 12 + tip.offsetWidth > width ? x - 12 - tip.offsetWidth : x + 12;
      tip.style.left = Math.max(0, Math.min(left, width - tip.offsetWidth)) + "px";
    }
    function nearest(event) {
      var box = plot.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * 2000, low = 0, high = last;
      while (low < high) {
        var middle = (low + high) >> 1;
        if (xs[middle] < x) low = middle + 1; else high = middle;
      }
      return low > 0 && x - xs[low - 1] < xs[low] - x ? low - 1 : low;
    }
    hide();
    plot.addEventListener("pointermove", function (event) { show(nearest(event)); });
    plot.addEventListener("pointerdown", function (event) { show(nearest(event)); });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("focus", function () { if (at < 0) show(last); });
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", function (event) {
      var step = {ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20}[event.key];
      if (step) show((at < 0 ? last : at) + step);
      else if (event.key === "Home") show(0);
      else if (event.key === "End") show(last);
      else if (event.key === "Escape") { hide(); return; }
      else return;
      event.preventDefault();
    });
  });
})();

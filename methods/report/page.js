"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const provenance = JSON.parse(byId("provenance").textContent);

  // Filters of the front table.
  const rows = [...document.querySelectorAll("#front tbody tr")];
  const chips = [...document.querySelectorAll(".chip")];
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const filter = () => {
    const verdicts = chips.filter((chip) => chip.ariaPressed === "true").map((chip) => chip.dataset.verdict);
    const study = byId("paper").value;
    const wanted = byId("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const fits = (!verdicts.length || verdicts.includes(row.dataset.verdict))
        && (!study || row.dataset.study === study)
        && wanted.every((word) => words.get(row).includes(word));
      row.hidden = !fits;
      shown += fits;
    }
    byId("claims").classList.toggle("filtered", verdicts.length > 0);
    byId("shown").textContent = `${shown} of ${rows.length}`;
    byId("none").hidden = shown > 0 || !rows.length;
  };
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.ariaPressed = String(chip.ariaPressed !== "true");
      filter();
    });
  }
  byId("paper").addEventListener("change", filter);
  byId("text").addEventListener("input", filter);
  byId("clear").addEventListener("click", () => {
    for (const chip of chips) chip.ariaPressed = "false";
    byId("paper").value = "";
    byId("text").value = "";
    filter();
  });

  // Sorting: numbers by data-v, everything else as text; what has no number stays last.
  const sortValue = (row, column, numeric) => {
    const cell = row.cells[column];
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    if (!numeric) return cell.textContent.trim();
    const number = parseFloat(cell.textContent.replace(/[,\s]/g, "").replace("\u2212", "-"));
    return Number.isNaN(number) ? null : number;
  };
  for (const table of document.querySelectorAll(".sortable")) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (head.dataset.sort === "none") return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.ariaSort === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const keyed = [...body.rows].map((row) => [sortValue(row, column, head.dataset.sort === "number"), row]);
        keyed.sort(([a], [b]) => {
          if (a === null || b === null) return (a === null) - (b === null);
          const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
          return down ? -order : order;
        });
        for (const [, row] of keyed) row.removeAttribute("data-first");
        body.append(...keyed.map(([, row]) => row));
      });
    });
  }

  // Provenance: built with textContent only, so that nothing in a study can become markup.
  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  const short = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(7))).replace("-", "\u2212") : String(value));
  const seconds = (value) => (value >= 90 ? `${(value / 60).toFixed(1)} min` : `${value.toFixed(1)} s`);

  const describe = (study, name, open) => {
    const run = study.runs[name];
    const box = make("details", undefined, "run");
    box.open = open;
    box.append(make("summary", name));
    const list = make("dl");
    const fact = (head, content) => {
      if (content === undefined || content === null || content === "") return;
      const value = make("dd");
      value.append(content instanceof Node ? content : String(content));
      list.append(make("dt", head), value);
    };
    fact("key", make("code", run.key));
    fact("does", make("code", run.implementation));
    fact("seed", run.seed);
    fact("settings", make("pre", JSON.stringify(run.spec, null, 1)));
    const code = study.code[run.code];
    if (code) {
      const files = make("details");
      files.append(make("summary", `${run.code} (${code.files.length} files)`), make("pre", code.files.join("\n")));
      fact("code", files);
    }
    if (run.git && run.git.commit) fact("revision", make("code", run.git.commit.slice(0, 12) + (run.git.dirty ? ", with uncommitted changes" : "")));
    if (run.versions) fact("machine", `torch ${run.versions.torch}, ${run.instruction_set}, ${run.device}, threads: ${run.threads}`);
    if (run.wall_seconds !== undefined) {
      fact("cost", `${seconds(run.wall_seconds)} wall, ${seconds(run.cpu_seconds)} CPU, ${(run.peak_memory_bytes / 1e6).toFixed(0)} MB at most`);
    }
    const upstream = make("div");
    for (const [role, other] of Object.entries(run.upstream || {})) {
      upstream.append(make("span", role, "sub"));
      if (study.runs[other]) upstream.append(describe(study, other, false));
      else upstream.append(make("code", " " + other));
    }
    if (upstream.childNodes.length) fact("from", upstream);
    box.append(list);
    return box;
  };

  const panel = byId("panel");
  const leave = () => {
    if (panel.open) panel.close();
    // The address without the cell, so that the same number can be opened again.
    if (location.hash.startsWith("#cell/")) history.replaceState(null, "", "#");
  };
  const show = (studyName, setting, variant, metric) => {
    const study = provenance[studyName];
    const cell = study && study.cells.find((one) => one.setting === setting && one.variant === variant);
    const entry = cell && cell.metrics[metric];
    if (!entry) return;
    const body = byId("panel-body");
    body.replaceChildren();
    const close = make("button", "✕", "close");
    close.type = "button";
    close.ariaLabel = "Close";
    close.addEventListener("click", leave);
    const title = make("h2", `${study.variants[variant]} · ${metric}`);
    title.id = "panel-title";
    body.append(close, title);
    const several = Object.keys(study.settings).length > 1;
    body.append(make("p", several ? `${study.title}, ${study.settings[setting]}` : study.title, "sub"));
    body.append(make("p", `${short(entry.value)}${entry.unit ? " " + entry.unit : ""}`, "big"));
    const n = entry.n === 1 ? "one seed, no interval" : `95 % interval ${short(entry.low)} to ${short(entry.high)} over ${entry.n} seeds`;
    body.append(make("p", entry.deterministic ? "no seed enters: one run stands for all" : n, "sub"));
    if (entry.units && entry.units.low !== null) {
      body.append(make("p", `over ${entry.units.n} test units: ${short(entry.units.low)} to ${short(entry.units.high)}`, "sub"));
    }
    entry.seeds.forEach((seed, index) => {
      const run = entry.runs[index];
      body.append(make("h3", `${entry.deterministic ? "Value" : "Seed " + seed}: ${short(entry.values[index])}`));
      const chain = cell.chains[seed] || [];
      const own = chain.includes(run) ? chain : [...chain, run];
      for (const name of own) body.append(describe(study, name, own.length === 1));
    });
    body.append(make("h3", "The same in a terminal"));
    const row = several ? `${setting}/${variant}` : variant;
    body.append(make("pre", `python -m methods explain ${study.called} ${row} ${metric}${study.flag}`));
    if (!panel.open) panel.showModal();
    panel.scrollTop = 0;
  };

  const follow = () => {
    const parts = location.hash.slice(1).split("/");
    if (parts[0] !== "cell" || parts.length !== 5) {
      if (panel.open) panel.close();
      return;
    }
    try {
      show(...parts.slice(1).map(decodeURIComponent));
    } catch (error) {
      if (!(error instanceof URIError)) throw error;
    }
  };
  panel.addEventListener("click", (event) => {
    if (event.target === panel) leave();
  });
  panel.addEventListener("close", leave); // the escape key
  window.addEventListener("hashchange", follow);
  follow();
})();

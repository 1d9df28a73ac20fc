"use strict";
(() => {
  const rows = [...document.querySelectorAll(".row")];
  const form = document.querySelector("#filters");
  const count = document.querySelector("#count");
  const words = rows.map((row) =>
    [...row.querySelectorAll("[data-find]")].map((part) => part.textContent).join("\n").toLowerCase());

  function fits(row, text, wanted) {
    const { split, state, kind, tokens, tags } = row.dataset;
    const length = Number(tokens);
    return (!wanted.find || text.includes(wanted.find.trim().toLowerCase()))
      && (!wanted.state || wanted.state === state || wanted.state === "kind:" + kind)
      && (!wanted.split || wanted.split === split)
      && (!wanted.tag || tags.split("\n").includes(wanted.tag))
      && (!wanted.least || length >= Number(wanted.least))
      && (!wanted.most || length <= Number(wanted.most));
  }

  function filter() {
    const wanted = Object.fromEntries(new FormData(form));
    let shown = 0;
    rows.forEach((row, at) => {
      row.hidden = !fits(row, words[at], wanted);
      shown += row.hidden ? 0 : 1;
    });
    count.textContent = shown + " of " + rows.length + " shown";
  }

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  form.hidden = false;
  filter();

  function look(token) {
    const list = token.parentElement;
    const before = list.querySelector(".at");
    if (before) before.classList.remove("at");
    token.classList.add("at");
    let position = 0;
    for (let one = list.firstElementChild; one !== token; one = one.nextElementSibling) {
      position += Number(one.dataset.n);
    }
    const last = position + Number(token.dataset.n) - 1;
    const where = last > position ? "Positions " + position + " to " + last : "Position " + position;
    const target = token.dataset.target;
    list.parentElement.querySelector(".about").textContent = where + ": “" + token.textContent + "”, token "
      + token.dataset.id + ". " + (target === undefined ? "What follows is not learned." : "It learns to say “" + target + "” next.");
  }

  const moves = {
    ArrowRight: (list, at) => at ? at.nextElementSibling : list.firstElementChild,
    ArrowLeft: (list, at) => at ? at.previousElementSibling : list.lastElementChild,
    Home: (list) => list.firstElementChild,
    End: (list) => list.lastElementChild,
  };
  document.addEventListener("keydown", (event) => {
    const list = event.target;
    if (!list.matches(".tokens[tabindex]") || !(event.key in moves)) return;
    event.preventDefault();
    const token = moves[event.key](list, list.querySelector(".at"));
    if (token) look(token);
  });
  for (const kind of ["pointerover", "click"]) {
    document.addEventListener(kind, (event) => {
      const token = event.target.closest(".tokens[tabindex] > span");
      if (token) look(token);
    });
  }
})();

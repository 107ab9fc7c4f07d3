"""The same run, step by step: what the closed forms of `mpsim.failures.lanes` are held against."""

import math


class Run:
    """One trial, an event after the other: the end of a step, copy, wait, write or hold, or something that happens."""

    def __init__(self, modes, every, rows, horizon_s):
        self.modes, self.every, self.rows, self.horizon_s = modes, every, list(rows), horizon_s
        self.parts = dict.fromkeys(("useful", "lost", "checkpoint", "restart", "repair", "slowed"), 0.0)
        self.now, self.mode, self.holds = 0.0, modes[0], []
        self.done, self.spent, self.made, self.saved = 0, 0.0, 0.0, []
        self.write = None  # (end, spent, made)
        self.begin()

    def begin(self):
        """Choose what is done next; `end` is when it is over."""
        self.since = self.now
        if self.holds:
            self.doing, took = self.holds[0]
            self.end = self.now + took
        elif self.done < self.every:
            self.doing, self.pace = "step", self.mode
            self.end = self.now + self.mode.step_s
        elif self.write is not None and self.write[0] > self.now:
            self.doing, self.end = "wait", self.write[0]
        else:
            self.doing, self.end = "copy", self.now + self.mode.blocked_s

    def count(self, until):
        took = until - self.since
        if self.doing == "step":
            self.spent += took
        elif self.doing in ("wait", "copy"):
            self.parts["checkpoint"] += took
        else:
            self.parts[self.doing] += took
        self.since = until

    def finish(self):
        self.count(self.end)
        if self.doing == "step":
            self.done, self.made = self.done + 1, self.made + self.pace.useful_s
        elif self.doing == "copy":
            self.write = (self.now + self.mode.written_s, self.spent, self.made)
            self.done, self.spent, self.made = 0, 0.0, 0.0
        elif self.doing != "wait":
            self.holds.pop(0)

    def settle(self):
        if self.write is not None and self.write[0] <= self.now:
            self.saved.append(self.write[1:])
            self.write = None

    def happen(self, row):
        _, stops, mode, detect_s, wait_s = row
        self.mode = self.modes[mode]
        if stops:
            self.count(self.now)
            self.parts["lost"] += self.spent + (self.write[1] if self.write else 0.0)
            self.done, self.spent, self.made, self.write = 0, 0.0, 0.0, None
            holds = [("restart", detect_s), ("repair", wait_s), ("restart", self.mode.restart_s)]
            self.holds = [hold for hold in holds if hold[1]]
            self.begin()
        elif self.since == self.now:  # what begins at this very moment begins at the new pace
            self.begin()

    def play(self):
        while True:
            coming = self.rows[0][0] if self.rows else math.inf
            writing = self.write[0] if self.write else math.inf
            self.now = min(self.end, coming, writing, self.horizon_s)
            self.settle()
            if self.end <= self.now:
                self.finish()
                self.settle()
                self.begin()
            elif coming <= self.now and coming < self.horizon_s:
                self.happen(self.rows.pop(0))
            elif self.now >= self.horizon_s:
                return self.over()

    def over(self):
        part = self.horizon_s - self.since
        self.count(self.horizon_s)
        kept = self.saved + ([self.write[1:]] if self.write else []) + [(self.spent, self.made)]
        useful = sum(made for _, made in kept)
        if self.doing == "step":
            useful += part * self.pace.useful_s / self.pace.step_s
        spent = sum(spent for spent, _ in kept)
        return self.parts | {"useful": useful, "slowed": spent - useful}

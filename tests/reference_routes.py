"""Routes as they are defined, each found by a search of its own: what `mpsim.topology.routes` must equal."""

import itertools
import math

_ATTOSECONDS = 1e18


class ReferenceRoutes:
    """Search all shortest paths between two devices, and choose from the target backwards."""

    def __init__(self, topology):
        self.links, self.devices = topology.links, len(topology.devices)
        index = {name: i for i, name in enumerate([*(d.name for d in topology.devices), *topology.switches])}
        self.out, self.into = [{} for _ in index], [{} for _ in index]
        for i, link in enumerate(topology.links):
            source, target = index[link.source], index[link.target]
            self.out[source][target] = self.into[target][source] = i

    def path(self, a, b):
        node, spread, path = b, b, []
        if b in self.out[a]:
            return (self.out[a][b],)
        if a == b:
            return ()
        arrivals = self._arrivals(self._levels(a, b))
        while node != a:
            options, choice = arrivals[node], 0
            if len(options) > 1 and all(source >= self.devices for _, source in options):
                spread, choice = divmod(spread, len(options))
            link, node = options[choice]
            path.append(link)
        return tuple(reversed(path))

    def _levels(self, a, b):
        levels, seen = [{a}], {a}
        while b not in seen:
            levels.append({new for node in levels[-1] for new in self.out[node]} - seen)
            seen |= levels[-1]
        return [*levels[:-1], {b}]

    def _arrivals(self, levels):
        best, arrivals = dict.fromkeys(levels[0], (0, -math.inf)), {}
        for before, here in itertools.pairwise(levels):
            for node in here:
                ways = []
                for source in before & self.into[node].keys():
                    link = self.links[index := self.into[node][source]]
                    latency, width = best[source]
                    key = (latency + round(link.latency_s * _ATTOSECONDS), max(width, -link.bandwidth_bytes_per_s))
                    ways.append((key, index, source))
                if ways:
                    best[node] = min(ways)[0]
                    arrivals[node] = [(index, source) for key, index, source in sorted(ways) if key == best[node]]
        return arrivals

"""One candidate's race against the front: after each block of documents, is it beaten?"""

from collections.abc import Sequence

from fitness.duel import streams
from fitness.racing import Rule, is_beaten
from fitness.scheme import Scheme
from fitness.types import Scores


class Race:
    """Is asked after every block of the scheme's documents whether the candidate may stop."""

    def __init__(self, scheme: Scheme, rule: Rule | None, rivals: Sequence[Scores]) -> None:
        """Line up a race.

        Args:
            scheme: that all candidates are put through.
            rule: when a candidate is dropped; None: never.
            rivals: scores of front members, chosen before anything is known of the candidate.
        """
        self._scheme, self._rule, self._rivals = scheme.comparing(), rule, rivals
        self._looks = iter(scheme.plan.looks)
        self.look = 0.0  # the share of the panel that was run
        self.beaten = False

    def __call__(self, scores: Scores) -> bool:
        """Whether some rival is better in every objective, beyond reasonable doubt."""
        self.look = next(self._looks)
        done = self._scheme.documents_at(self.look) == self._scheme.documents_at(1.0)
        if self._rule is not None and self._rivals and not done:
            found = [streams(self._scheme, scores, r, self.look) for r in self._rivals]
            self.beaten = is_beaten(found, self._rule)
        return self.beaten

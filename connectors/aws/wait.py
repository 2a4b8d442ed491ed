"""How long AWS may take to show what it has made."""

VISIBLE_SECONDS = 180.0
"""How long a new object may be unknown to other calls. About two minutes were seen and
confirmed for snapshots by the EBS team (coldsnap issue 43, pull request 56); the rest is
reserve."""

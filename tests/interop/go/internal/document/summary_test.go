package document

import (
	"testing"
	"time"
)

func TestTimesAreToldRelativeToNow(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for delta, want := range map[int64]string{
		0: "<now>", -20: "<now>", 29: "<now>", -40: "<before now>",
		60: "<now, and 1 min>", 31: "<now, and 1 min>", 77: "<now, and 1 min>", 120: "<now, and 2 min>", 300: "<now, and 5 min>",
		3600: "<now, and about an hour>", 3100: "<now, and about an hour>", 86400: "<now, and about a day>", 80000: "<now, and about a day>",
		10 * 3600: "<now, and about 10 hours>",
	} {
		if got := Near(now.Unix()+delta, now); got != want {
			t.Errorf("%d: %s, not %s", delta, got, want)
		}
	}
}

package jetstream_test

import (
	"errors"
	"testing"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
)

func TestTheLeaseIsWrittenByOne(t *testing.T) {
	url := jetstreamtest.Shared(t)
	one, two := jetstreamtest.Provisioned(t, url).Lease(), jetstreamtest.Provisioned(t, url).Lease()
	if value, revision, err := one.Get(t.Context()); err != nil || revision != 0 || len(value) != 0 {
		t.Errorf("before the first: %q %d %v", value, revision, err)
	}
	first, err := one.Put(t.Context(), []byte("one"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.Put(t.Context(), []byte("two"), 0); !errors.Is(err, registry.ErrFenced) {
		t.Errorf("who comes second: %v, want ErrFenced", err)
	}
	if value, revision, err := two.Get(t.Context()); err != nil || revision != first || string(value) != "one" {
		t.Errorf("the other reads %q %d %v", value, revision, err)
	}
	if _, err := two.Put(t.Context(), []byte("two"), first); err != nil {
		t.Errorf("take-over: %v", err)
	}
	if _, err := one.Put(t.Context(), []byte("one"), first); !errors.Is(err, registry.ErrFenced) {
		t.Errorf("a late renewal: %v, want ErrFenced", err)
	}
}

package registry_test

import (
	"testing"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

func TestMain(m *testing.M) {
	jetstreamtest.AtOnce(3)
	jetstreamtest.Main(m)
}

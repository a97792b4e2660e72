package jetstream_test

import (
	"testing"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

func TestMain(m *testing.M) {
	jetstreamtest.AtOnce(4)
	jetstreamtest.Main(m)
}

package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/policy"
	"github.com/berthhq/berth/primary"
)

func TestMain(m *testing.M) { jetstreamtest.Main(m) }

// TestBoard posts what can be used and what cannot: the board shows the last that can, and says so.
func TestBoard(t *testing.T) {
	t.Parallel()
	conn := jetstreamtest.Provisioned(t, jetstreamtest.Start(t, embedded.RegionConfig{}).ClientURL())
	documents := conn.Documents(jetstream.BucketPolicy)
	board := policy.NewBoard(documents, policy.Named("p2c"), jetstreamtest.Log(t))
	keeper, err := policy.NewKeeper(policy.KeeperConfig{
		Region: conn.Region(), Primary: conn.Region(), Board: board, Store: documents, Caller: conn.DocumentsCaller(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- board.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	inForce := func(name, warning string) {
		t.Helper()
		jetstreamtest.Eventually(t, 10*time.Second, name+" to be in force, and told: "+warning, func() bool {
			reply, err := keeper.Get(t.Context(), policy.GetRequest{})
			if err != nil {
				t.Fatal(err)
			}
			all := strings.Join(reply.Warnings, "\n")
			return board.For("s").Name == name && reply.Name == name && reply.AgeMS >= 0 && (all == "" && warning == "" || warning != "" && strings.Contains(all, warning))
		})
	}
	set := func(document string) (policy.Reply, error) {
		return keeper.Set(t.Context(), policy.SetRequest{Document: document, By: "ada"})
	}
	// store writes what only another build would.
	store := func(document string) {
		t.Helper()
		_, revision, err := documents.Get(t.Context(), policy.Name)
		if err == nil {
			err = documents.Put(t.Context(), policy.Name, []byte(document), revision)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(err error, code int, want string) {
		t.Helper()
		refusal, ok := errors.AsType[*primary.Refusal](err)
		if !ok || refusal.Code != code || !strings.Contains(refusal.Detail, want) {
			t.Errorf("%v, want %d %q", err, code, want)
		}
	}

	inForce("p2c", "")
	if reply, err := set("version: 1\npolicy: literal\n"); err != nil || !reply.Changed || reply.Posted.ChangedBy != "ada" {
		t.Fatalf("%+v, %v", reply, err)
	}
	inForce("literal", "")
	_, err = set("version: 1\npolicy: sprad\n")
	refused(err, http.StatusBadRequest, "line 2")
	inForce("literal", "")

	store("{")
	inForce("literal", "cannot be read")
	if reply, err := set("version: 1\npolicy: spread\n"); err != nil || !reply.Changed {
		t.Errorf("over what cannot be read: %+v, %v", reply, err)
	}
	inForce("spread", "")
	store(`{"version": 1, "document": "version: 1\npolicy: newest\n"}`)
	inForce("spread", `"newest"`)
	store(`{"version": 2, "rules": []}`)
	inForce("spread", "version 2")
	_, err = set("version: 1\npolicy: literal\n")
	refused(err, http.StatusConflict, "nothing was changed")

	big, err := json.Marshal(policy.SetRequest{Document: strings.Repeat("\x01", 2*policy.MaxSize)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = keeper.Methods()[policy.MethodSet](t.Context(), big)
	refused(err, http.StatusRequestEntityTooLarge, "at most")
}

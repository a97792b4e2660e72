package server_test

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/sdk/server"
)

// A regional server with berth in it.
func Example() {
	ctx := context.Background()
	boot := ulid.Make().String() // this start of the process, to NATS and in heartbeats
	conn, err := jetstream.Dial(ctx, jetstream.Config{
		URL: "nats://nats.eu-west-1.internal:4222", Region: "eu-west-1", Role: jetstream.RoleServer,
		Server: "eu-west-1-a", Boot: boot, Wait: true,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	nats := conn.Regional()
	agent, err := server.New(server.Config{
		Server: "eu-west-1-a", Boot: boot, Region: "eu-west-1", URL: "https://eu-west-1-a.example.com", Capacity: 5000,
		Issuer: "https://api.example.com", Bus: nats, Recent: nats, Caller: nats, Watcher: nats,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() { _ = agent.Run(ctx) }()

	orders := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := server.ClaimsFrom(r.Context())
		fmt.Fprintf(w, "an order of %s\n", claims.Subject)
	})
	mux := http.NewServeMux()
	mux.Handle("/berth/", agent.TokenPaths("/berth"))
	mux.Handle("POST /orders", agent.Lock(orders))
	s := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	fmt.Println(s.ListenAndServe())
}

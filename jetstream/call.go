package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"

	"github.com/berthhq/berth/tokens/api"
)

// ServiceError is what a service answers instead of a Reply.
type ServiceError struct {
	// Code is a number in the manner of HTTP, Description one line.
	Code, Description string
}

func (e *ServiceError) Error() string {
	return fmt.Sprintf("service error %s: %s", e.Code, e.Description)
}

// Call sends a request to whoever serves subject and returns the answer. ctx bounds it, at most 10 s; its deadline goes
// with the request, in api.HeaderDeadline, unless header names an earlier one.
//
// It fails with ErrNoResponders where nobody serves the subject, ErrUnavailable where there is no connection, ErrTimeout
// where no answer came in time, and *ServiceError where the service itself failed. It is never sent twice.
func (c *Conn) Call(ctx context.Context, subject string, header map[string][]string, data []byte) (Reply, error) {
	ctx, cancel := within(ctx, defaultTimeout)
	defer cancel()
	msg := &nats.Msg{Subject: subject, Data: data, Header: make(nats.Header, len(header)+1)}
	maps.Copy(msg.Header, header)
	if at, ok := ctx.Deadline(); ok {
		msg.Header[api.HeaderDeadline] = []string{deadline(msg.Header, at).UTC().Format(time.RFC3339Nano)}
	}
	answer, err := c.request(ctx, msg)
	if err != nil {
		return Reply{}, fmt.Errorf("call %s: %w", subject, callFault(err))
	}
	if code := answer.Header.Get(micro.ErrorCodeHeader); code != "" {
		return Reply{}, fmt.Errorf("call %s: %w", subject, &ServiceError{Code: code, Description: answer.Header.Get(micro.ErrorHeader)})
	}
	return Reply{Header: answer.Header, Data: answer.Data}, nil
}

const (
	// maxGathered bounds how many answers one question may bring.
	maxGathered = 1024
	// noResponders is the status by which NATS says that nobody serves a subject.
	noResponders = "503"
)

// Gather sends a request to all who serve subject, where each of them gets it (Endpoint.Every), and returns the data of the
// answers that come until ctx ends, at most 10 s. Service errors count as no answer. It returns at once, with nothing, where
// nobody serves the subject.
func (c *Conn) Gather(ctx context.Context, subject string, data []byte) ([][]byte, error) {
	ctx, cancel := within(ctx, defaultTimeout)
	defer cancel()
	inbox := c.nc.NewRespInbox()
	if j := c.elsewhere(subject); j != "" {
		inbox = c.crossing.prefix(j) + nuid.Next()
	}
	answers, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, callFault(err))
	}
	defer func() { _ = answers.Unsubscribe() }() // it ends with the connection in any case
	msg := &nats.Msg{Subject: subject, Reply: inbox, Data: data, Header: nats.Header{}}
	if at, ok := ctx.Deadline(); ok {
		msg.Header[api.HeaderDeadline] = []string{at.UTC().Format(time.RFC3339Nano)}
	}
	if err := c.nc.PublishMsg(msg); err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, callFault(err))
	}
	var all [][]byte
	for len(all) < maxGathered {
		answer, err := answers.NextMsgWithContext(ctx)
		switch {
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrNoResponders):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("ask %s: %w", subject, callFault(err))
		case len(answer.Data) == 0: // nobody serves it, or nothing is said
			if len(all) == 0 && answer.Header.Get("Status") == noResponders {
				return nil, nil
			}
		case answer.Header.Get(micro.ErrorCodeHeader) == "":
			all = append(all, answer.Data)
		}
	}
	return all, nil
}

// callFault makes the NATS client's errors into ours.
func callFault(err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return ErrNoResponders
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return ErrTimeout
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionClosed):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return err
	}
}

// Acts on each answer to a send request once: go run ./read-results [GROUP].
//
// Prints a JSON line for each; ends by SIGTERM.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	remembered = 100_000
	// Records between two commits: a rebalance waits for their work, and for no longer than 60 s (kgo.RebalanceTimeout).
	atOnce = 100
)

// sendDecided names what this reader needs. encoding/json ignores all other members, also those that come later.
type sendDecided struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Subject string `json:"subject"`
	Data    struct {
		RequestID string `json:"request_id"`
		Code      string `json:"code"` // an open list: strings, and no type that refuses a new one
		Outcome   string `json:"outcome"`
	} `json:"data"`
}

// seen has the ids of events that were acted on.
//
// A service keeps them where it keeps what it does, as a unique column of the same transaction: memory forgets at a
// restart, and the records since the last commit come again.
type seen struct {
	ids   map[string]struct{}
	order []string
}

func (s *seen) has(id string) bool {
	_, known := s.ids[id]
	return known
}

// add remembers a new id, and forgets the oldest where there are too many.
func (s *seen) add(id string) {
	s.ids[id] = struct{}{}
	s.order = append(s.order, id)
	if len(s.order) > remembered {
		delete(s.ids, s.order[0])
		s.order = s.order[1:]
	}
}

func main() {
	log.SetFlags(0)
	group := "delivery-example"
	if len(os.Args) > 1 {
		group = os.Args[1]
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := readResults(ctx, group); err != nil {
		log.Fatal(err)
	}
}

// readResults reads until it is told to stop. Offsets are committed after the work: a crash repeats, and loses nothing.
func readResults(ctx context.Context, group string) error {
	servers := os.Getenv("KAFKA_BOOTSTRAP_SERVERS")
	if servers == "" {
		servers = "localhost:9092"
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(servers, ",")...),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics("inmail.send-results"),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		// Not the default: without it, answers of aborted transactions are read too.
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
	)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance()

	ids := seen{ids: make(map[string]struct{})}
	for {
		fetches := client.PollRecords(ctx, atOnce)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		for _, record := range fetches.Records() {
			var event sendDecided
			if err := json.Unmarshal(record.Value, &event); err != nil {
				return err
			}
			// The first answer again (`repeat`), or a record read twice, has the id of the first.
			if event.Type == "inmail.send.decided.v1" && !ids.has(event.ID) {
				act(event)
				ids.add(event.ID) // after the work: known before it, an answer whose work fails would be lost
			}
		}
		if err := client.CommitUncommittedOffsets(context.WithoutCancel(ctx)); err != nil && !hasLeft(err) {
			return err
		}
		client.AllowRebalance()
	}
}

// hasLeft tells whether a commit failed since the group has given the partitions to others, or to us again: what was
// not committed is read again, and ids has what was done.
func hasLeft(err error) bool {
	return errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.IllegalGeneration) ||
		errors.Is(err, kerr.RebalanceInProgress)
}

// act does what an answer says. Codes that are not known are no error: the outcome decides.
func act(event sendDecided) {
	action := "refuse"
	switch {
	case event.Data.Code == "balance_not_current":
		action = "wait" // not final: whoever asked sends the request again, see send-inmail
	case event.Data.Code == "key_conflict":
		// Another body under an id that has its answer, which stands: its message may have been delivered. Whoever
		// sent the other body has to be told.
		action = "ignore"
	case event.Data.Outcome == "accepted":
		action = "deliver"
	}
	line, _ := json.Marshal(map[string]string{
		"action": action, "account": event.Subject, "request_id": event.Data.RequestID, "code": event.Data.Code,
	})
	fmt.Println(string(line))
}

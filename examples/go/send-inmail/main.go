// Asks whether an InMail may be sent, and waits for the final answer: go run ./send-inmail ACCOUNT RECIPIENT [ID].
//
// Prints a JSON line for each answer, and before it sends, on standard error, the ID. Run it again with the same ID
// after any failure: the request is decided once.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	requests = "inmail.send-requests"
	results  = "inmail.send-results"
	// franz-go goes on trying to deliver a record, for ever.
	sendTimeout = 120 * time.Second
	// Longer than the ledger itself waits for another of its lanes (INMAIL_ORDER_SECONDS: 300).
	answerTimeout = 330 * time.Second
)

type sendRequested struct {
	SpecVersion     string    `json:"specversion"`
	ID              uuid.UUID `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            struct {
		RecipientID  string `json:"recipient_id"`
		Relationship string `json:"relationship"`
	} `json:"data"`
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 || len(os.Args) > 4 {
		log.Fatal("usage: send-inmail ACCOUNT RECIPIENT [ID]")
	}
	id := uuid.New()
	if len(os.Args) == 4 {
		id = uuid.MustParse(os.Args[3])
	}
	if err := sendInMail(context.Background(), os.Args[1], os.Args[2], id); err != nil {
		log.Fatal(err)
	}
}

// sendInMail sends a request until its answer is final, and prints each answer.
func sendInMail(ctx context.Context, account, recipient string, id uuid.UUID) error {
	servers := strings.Split(env("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"), ",")
	// franz-go partitions by murmur2 of the key, as the ledger expects, and is idempotent with acks=all by default.
	producer, err := kgo.NewClient(kgo.SeedBrokers(servers...))
	if err != nil {
		return err
	}
	defer producer.Close()

	// Where the answers begin has to be known before there can be one.
	ends, err := kadm.NewClient(producer).ListCommittedOffsets(ctx, results)
	if err == nil {
		err = ends.Error() // of any partition: it would not be read
	}
	if err != nil {
		return err
	}
	consumer, err := kgo.NewClient(
		kgo.SeedBrokers(servers...),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(ends.KOffsets()),
	)
	if err != nil {
		return err
	}
	defer consumer.Close()

	record, err := newRecord(account, recipient, id)
	if err != nil {
		return err
	}
	log.Printf("request %s", id) // whoever sends it again needs it
	for {
		if err := send(ctx, producer, record, id); err != nil {
			return err
		}
		answer, err := waitForAnswer(ctx, consumer, account, id)
		if err != nil {
			return err
		}
		fmt.Println(string(answer))
		var data struct {
			Code              string  `json:"code"`
			RetryAfterSeconds float64 `json:"retry_after_seconds"`
		}
		if err := json.Unmarshal(answer, &data); err != nil {
			return err
		}
		if data.Code != "balance_not_current" {
			return nil
		}
		// Not final, and nothing was charged: the same event again, with the same id, once the ledger has caught up.
		if given, err := strconv.ParseFloat(os.Getenv("RETRY_SECONDS"), 64); err == nil {
			data.RetryAfterSeconds = given
		}
		time.Sleep(time.Duration(data.RetryAfterSeconds * float64(time.Second)))
	}
}

// send sends a request, and returns once Kafka has it.
func send(ctx context.Context, producer *kgo.Client, record *kgo.Record, id uuid.UUID) error {
	delivered := make(chan error, 1)
	producer.Produce(ctx, record, func(_ *kgo.Record, err error) { delivered <- err })
	select {
	case err := <-delivered:
		return err
	case <-time.After(sendTimeout):
		return fmt.Errorf("Kafka has not confirmed the request, and may have it: send %s again", id)
	}
}

// newRecord returns the request as a CloudEvent in structured mode.
func newRecord(account, recipient string, id uuid.UUID) (*kgo.Record, error) {
	event := sendRequested{
		SpecVersion:     "1.0",
		ID:              id,
		Source:          "/examples/go",
		Type:            "inmail.send.requested.v1",
		Subject:         account,
		Time:            time.Now().UTC(),
		DataContentType: "application/json",
	}
	event.Data.RecipientID, event.Data.Relationship = recipient, "none"
	value, err := json.Marshal(event)
	return &kgo.Record{
		Topic:   requests,
		Key:     []byte(account),
		Value:   value,
		Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/cloudevents+json; charset=UTF-8")}},
	}, err
}

// waitForAnswer returns the data of the next answer to a request, which its account and its id name together.
func waitForAnswer(ctx context.Context, consumer *kgo.Client, account string, id uuid.UUID) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	for {
		// One at a time: what is polled and not looked at would be lost to the next attempt.
		fetches := consumer.PollRecords(ctx, 1)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("no answer: send %s again, or look for it on inmail.dead-letters: %w", id, err)
		}
		for _, record := range fetches.Records() {
			var event struct {
				Type    string          `json:"type"`
				Subject string          `json:"subject"`
				Data    json.RawMessage `json:"data"`
			}
			var data struct {
				RequestID uuid.UUID `json:"request_id"`
			}
			if err := json.Unmarshal(record.Value, &event); err != nil {
				return nil, err
			}
			if event.Type != "inmail.send.decided.v1" || event.Subject != account {
				continue
			}
			if err := json.Unmarshal(event.Data, &data); err != nil {
				return nil, err
			}
			if data.RequestID == id {
				return event.Data, nil
			}
		}
	}
}

func env(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

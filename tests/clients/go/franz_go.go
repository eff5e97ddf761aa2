package main

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
)

func sendFranzGo(a asked) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(a.Servers), kgo.DefaultProduceTopic(a.Topic))
	if err != nil {
		return err
	}
	defer client.Close()
	var records []*kgo.Record
	for _, key := range a.Keys {
		records = append(records, kgo.KeyStringRecord(key, a.Value))
	}
	return client.ProduceSync(context.Background(), records...).FirstErr()
}

func readFranzGo(a asked) ([]string, error) {
	options := []kgo.Opt{
		kgo.SeedBrokers(a.Servers),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{a.Topic: {0: kgo.NewOffset().AtStart()}}),
	}
	if a.isSet() {
		options = append(options, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var values []string
	for {
		fetches := client.PollFetches(context.Background())
		if err := fetches.Err(); err != nil {
			return nil, err
		}
		for _, record := range fetches.Records() {
			values = append(values, string(record.Value))
			if string(record.Value) == a.Until {
				return values, nil
			}
		}
	}
}

package main

import (
	"context"
	"errors"
	"strings"

	"github.com/segmentio/kafka-go"
)

func sendKafkaGo(a asked) error {
	writer := &kafka.Writer{Addr: kafka.TCP(strings.Split(a.Servers, ",")...), Topic: a.Topic}
	if a.isSet() {
		writer.Balancer = kafka.Murmur2Balancer{}
		writer.RequiredAcks = kafka.RequireAll
	}
	var messages []kafka.Message
	for _, key := range a.Keys {
		messages = append(messages, kafka.Message{Key: []byte(key), Value: []byte(a.Value)})
	}
	return errors.Join(writer.WriteMessages(context.Background(), messages...), writer.Close())
}

func readKafkaGo(a asked) ([]string, error) {
	config := kafka.ReaderConfig{Brokers: strings.Split(a.Servers, ","), Topic: a.Topic}
	if a.isSet() {
		config.IsolationLevel = kafka.ReadCommitted
	}
	reader := kafka.NewReader(config)
	defer reader.Close()
	var values []string
	for {
		message, err := reader.ReadMessage(context.Background())
		if err != nil {
			return nil, err
		}
		values = append(values, string(message.Value))
		if string(message.Value) == a.Until {
			return values, nil
		}
	}
}

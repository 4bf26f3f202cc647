package replicas

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/rueidis"
)

// publish sends what is to be told.
func (s *session) publish(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.r.bus.out.filled:
		}
		if err := s.publishQueued(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

func (s *session) publishQueued(ctx context.Context) error {
	events, _ := s.r.bus.out.take()
	for chunk := range slices.Chunk(events, chunkOf) {
		commands := make([]rueidis.Completed, 0, len(chunk))
		for _, e := range chunk {
			commands = append(commands, s.client.B().Publish().Channel(s.r.busChannel(e.topic)).Message(s.r.instance+string(e.message)).Build())
		}
		if _, err := s.multi(ctx, "tell", commands...); err != nil {
			s.r.bus.lostOut.Add(float64(len(chunk)))
			return err
		}
		s.r.bus.told.Add(float64(len(chunk)))
	}
	return nil
}

func (r *Replicas) busChannel(topic string) string { return r.key("bus:" + topic) }

// subscribe opens the connection that messages come on, with the control channel alone.
func (s *session) subscribe(ctx context.Context) error {
	s.subscriber, _ = s.client.Dedicate() // its connection is closed with the session's others
	s.deaf = s.subscriber.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: s.receive})
	return s.call(ctx, "subscribe", func(ctx context.Context) error {
		return s.subscriber.Do(ctx, s.client.B().Subscribe().Channel(s.r.controlChannel()).Build()).Error()
	})
}

// receive takes a message. It is called from where the connection is read.
func (s *session) receive(m rueidis.PubSubMessage) {
	r := s.r
	topic, isBus := strings.CutPrefix(m.Channel, r.busChannel(""))
	switch {
	case !isBus:
		r.heardControl(m.Message)
	case len(m.Message) < instanceLength || strings.HasPrefix(m.Message, r.instance):
	case !r.bus.in.put(event{topic: topic, message: []byte(m.Message[instanceLength:])}):
		r.bus.lostIn.Inc()
	}
}

// errDeaf says that the connection that messages come on has ended.
var errDeaf = errors.New("the connection for messages has ended")

// follow subscribes to what is listened to.
func (s *session) follow(ctx context.Context) error {
	subscribed := make(map[string]bool)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.deaf:
			if err == nil {
				return errDeaf
			}
			return fmt.Errorf("%w: %w", errDeaf, err)
		case <-s.r.bus.changed:
		}
		topics, fresh := s.r.bus.topics()
		if err := s.resubscribe(ctx, subscribed, topics); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // that is why
			}
			return err
		}
		for _, l := range fresh {
			s.r.bus.in.put(event{only: l})
		}
	}
}

// resubscribe makes what is subscribed the same as topics.
func (s *session) resubscribe(ctx context.Context, subscribed, topics map[string]bool) error {
	var more, less []string
	for topic := range topics {
		if !subscribed[topic] {
			subscribed[topic] = true
			more = append(more, s.r.busChannel(topic))
		}
	}
	for topic := range subscribed {
		if !topics[topic] {
			delete(subscribed, topic)
			less = append(less, s.r.busChannel(topic))
		}
	}
	return s.call(ctx, "subscribe", func(ctx context.Context) error {
		if len(more) > 0 {
			if err := s.subscriber.Do(ctx, s.client.B().Subscribe().Channel(more...).Build()).Error(); err != nil {
				return err //nolint:wrapcheck // call does
			}
		}
		if len(less) > 0 {
			return s.subscriber.Do(ctx, s.client.B().Unsubscribe().Channel(less...).Build()).Error()
		}
		return nil
	})
}
